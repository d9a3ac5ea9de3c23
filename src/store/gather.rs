//! Requests that come while a call is under way go together in the next one: many at once cost
//! little more than one, and a lone one waits for nobody.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// Requests that go together at most.
const MOST: usize = 256;

/// After this long, a request does not wait any more for calls that began before it: a connection
/// that went dead under one of them would hold up everybody.
const PATIENCE: Duration = Duration::from_millis(250);

/// Gathers requests, each of which gets an answer of its own. Cheap to clone.
pub(super) struct Gather<Q, A>(Arc<Inner<Q, A>>);

struct Inner<Q, A> {
    tasks: TaskTracker,
    state: Mutex<State<Q, A>>,
}

struct State<Q, A> {
    waiting: Vec<(Q, oneshot::Sender<A>)>,
    /// Tasks that make calls for as long as somebody waits.
    callers: usize,
}

impl<Q: Send + 'static, A: Send + 'static> Gather<Q, A> {
    /// Nobody waits yet.
    pub(super) fn new() -> Self {
        let state = Mutex::new(State { waiting: Vec::new(), callers: 0 });
        Self(Arc::new(Inner { tasks: TaskTracker::new(), state }))
    }

    /// The answer to `request`; `None` if the call that it was part of came to no end. What is
    /// asked for is done even if whoever asked goes away.
    ///
    /// `call` answers up to 256 requests, in their order. All who ask bring the same one.
    pub(super) async fn ask<C, F>(&self, request: Q, call: C) -> Option<A>
    where
        C: Fn(Vec<Q>) -> F + Clone + Send + 'static,
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        let (reply, mut answer) = oneshot::channel();
        if self.0.enter(request, reply) {
            self.0.tasks.spawn(Arc::clone(&self.0).answer_all(call.clone()));
        }
        if let Ok(answer) = timeout(PATIENCE, &mut answer).await {
            return answer.ok();
        }
        self.0.state().callers += 1;
        self.0.tasks.spawn(Arc::clone(&self.0).answer_all(call));
        answer.await.ok()
    }
}

impl<Q, A> Inner<Q, A> {
    /// Takes a request in. `true`: nobody is there to make a call for it.
    fn enter(&self, request: Q, reply: oneshot::Sender<A>) -> bool {
        let mut state = self.state();
        state.waiting.push((request, reply));
        let is_first = state.callers == 0;
        state.callers += usize::from(is_first);
        is_first
    }

    async fn answer_all<C, F>(self: Arc<Self>, call: C)
    where
        C: Fn(Vec<Q>) -> F,
        F: Future<Output = Vec<A>>,
    {
        let mut caller = Caller { inner: &self, is_done: false };
        loop {
            // Those who are about to ask come along.
            tokio::task::yield_now().await;
            let Some(some) = caller.take() else { return };
            let (requests, replies): (Vec<_>, Vec<_>) = some.into_iter().unzip();
            for (reply, answer) in replies.into_iter().zip(call(requests).await) {
                // Whoever went away does not mind.
                drop(reply.send(answer));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<Q, A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who makes calls; counted until it finds that nobody waits, or until it panics.
struct Caller<'a, Q, A> {
    inner: &'a Inner<Q, A>,
    is_done: bool,
}

impl<Q, A> Caller<'_, Q, A> {
    /// The longest waiting; `None`: nobody waits, and whoever comes from now on finds this one gone.
    fn take(&mut self) -> Option<Vec<(Q, oneshot::Sender<A>)>> {
        let mut state = self.inner.state();
        let count = state.waiting.len().min(MOST);
        if count == 0 {
            state.callers -= 1;
            self.is_done = true;
            return None;
        }
        Some(state.waiting.drain(..count).collect())
    }
}

impl<Q, A> Drop for Caller<'_, Q, A> {
    fn drop(&mut self) {
        if !self.is_done {
            self.inner.state().callers -= 1;
        }
    }
}

impl<Q, A> Clone for Gather<Q, A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Q, A> fmt::Debug for Gather<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gather({} waiting)", self.0.state().waiting.len())
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tokio::sync::{Semaphore, mpsc};
    use tokio::time::Instant;

    use super::*;

    /// Doubles numbers; says how many came together; works while it is let.
    #[derive(Clone)]
    struct Doubler {
        gather: Gather<u32, u32>,
        gate: Arc<Semaphore>,
        tell: mpsc::UnboundedSender<usize>,
    }

    impl Doubler {
        fn new() -> (Self, mpsc::UnboundedReceiver<usize>) {
            let (tell, told) = mpsc::unbounded_channel();
            (Self { gather: Gather::new(), gate: Arc::new(Semaphore::new(0)), tell }, told)
        }

        async fn ask(&self, number: u32) -> Option<u32> {
            let it = self.clone();
            self.gather.ask(number, move |numbers| it.clone().double(numbers)).await
        }

        async fn double(self, numbers: Vec<u32>) -> Vec<u32> {
            self.tell.send(numbers.len()).unwrap();
            self.gate.acquire().await.unwrap().forget();
            assert!(!numbers.contains(&1_300), "bad luck");
            numbers.iter().map(|n| n * 2).collect()
        }
    }

    #[tokio::test]
    async fn those_who_come_during_a_call_go_together_in_the_next() {
        let (doubler, mut told) = Doubler::new();
        let rest = async {
            assert_eq!(told.recv().await, Some(1), "a lone one waits for nobody");
            let open = async {
                tokio::task::yield_now().await;
                doubler.gate.add_permits(3);
            };
            tokio::join!(join_all((2..=300).map(|n| doubler.ask(n))), open).0
        };
        let (first, rest) = tokio::join!(doubler.ask(1), rest);
        assert_eq!(first, Some(2));
        assert_eq!(rest, (2..=300).map(|n| Some(n * 2)).collect::<Vec<_>>());
        assert_eq!((told.recv().await, told.recv().await), (Some(MOST), Some(299 - MOST)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_holds_up_nobody_for_long() {
        let (doubler, mut told) = Doubler::new();
        let begun = Instant::now();
        let second = async {
            told.recv().await.unwrap();
            let open = async {
                assert_eq!(told.recv().await, Some(1), "while the first one hangs");
                doubler.gate.add_permits(2);
            };
            tokio::join!(doubler.ask(2), open).0
        };
        assert_eq!(tokio::join!(doubler.ask(1), second), (Some(2), Some(4)));
        assert!(begun.elapsed() < PATIENCE * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_call_that_panics_is_told_and_the_next_one_works() {
        let (doubler, _told) = Doubler::new();
        doubler.gate.add_permits(2);
        assert_eq!(doubler.ask(1_300).await, None);
        assert_eq!(doubler.ask(4).await, Some(8));
    }
}
