//! The application's BullMQ queues: which are looked after, which is served.

use std::collections::BTreeSet;

use super::problem::Problem;
use super::reader::{Reader, is_off};
use super::{Posts, Requests, settings};

/// How many queues are looked after at most.
const MOST_QUEUES: usize = 16;

pub(super) fn posts(reader: &mut Reader<'_>) -> Option<Posts> {
    let prefix = reader.fitting(&settings::BULLMQ_PREFIX, |text| part(text, 64, "._-:{}"));
    let queues = |text: &str| if is_off(text) { Some(Vec::new()) } else { queues(text) };
    let queues = reader.fitting(&settings::BULLMQ_POST_QUEUES, queues);
    Some(Posts { prefix: prefix?, queues: queues? })
}

pub(super) fn requests(reader: &mut Reader<'_>, posts: Option<&Posts>) -> Option<Requests> {
    let one = |text: &str| if is_off(text) { Some(None) } else { name(text).map(Some) };
    let queue = reader.fitting(&settings::BULLMQ_REFRESH_QUEUE, one);
    let is_given = reader.is_given(&settings::BULLMQ_OTHER_QUEUE);
    let other = is_given.then(|| reader.fitting(&settings::BULLMQ_OTHER_QUEUE, one));
    let requests = Requests { queue: queue?, other: other.unwrap_or(Some(None))? };
    contradictions(reader, &requests, posts);
    Some(requests)
}

/// What makes no sense together: an error where jobs would come to harm, else a note.
fn contradictions(reader: &mut Reader<'_>, requests: &Requests, posts: Option<&Posts>) {
    let Requests { queue, other } = requests;
    let are_posts = |name: &String| posts.is_some_and(|posts| posts.queues.contains(name));
    for (setting, name) in [("BULLMQ_REFRESH_QUEUE", queue), ("BULLMQ_OTHER_QUEUE", other)] {
        if let Some(name) = name.as_ref().filter(|name| are_posts(name)) {
            reader.problems.push(Problem::general(format!(
                "{setting} and BULLMQ_POST_QUEUES both name {name}: posts and requests need queues of their own"
            )));
        }
    }
    match (queue, other) {
        (Some(queue), Some(other)) if queue == other => reader.problems.push(Problem::general(
            format!("BULLMQ_REFRESH_QUEUE and BULLMQ_OTHER_QUEUE both name {queue}: jobs cannot be moved to where they are"),
        )),
        (None, Some(_other)) => {
            reader.note("BULLMQ_OTHER_QUEUE has no effect: BULLMQ_REFRESH_QUEUE is off".to_owned());
        }
        _ => {}
    }
    let none = queue.is_none() && posts.is_some_and(|posts| posts.queues.is_empty());
    if none && reader.is_given(&settings::BULLMQ_PREFIX) {
        let both = "BULLMQ_POST_QUEUES and BULLMQ_REFRESH_QUEUE are off";
        reader.note(format!("BULLMQ_PREFIX has no effect: {both}"));
    }
}

fn queues(text: &str) -> Option<Vec<String>> {
    let mut queues: Vec<String> =
        text.split(',').map(|text| name(text.trim())).collect::<Option<_>>()?;
    // One that is named twice is one.
    let mut seen = BTreeSet::new();
    queues.retain(|name| seen.insert(name.clone()));
    (queues.len() <= MOST_QUEUES).then_some(queues)
}

/// The name of a queue of BullMQ's.
pub(super) fn name(text: &str) -> Option<String> {
    part(text, 128, "._-{}")
}

/// A part of a key of BullMQ's.
fn part(text: &str, longest: usize, marks: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    ((1..=longest).contains(&text.len()) && text.chars().all(good)).then(|| text.to_owned())
}
