//! Random calls, and a crash that cuts what no fsync has covered.

use std::collections::BTreeMap;
use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::runtime::Builder;

use super::*;
use crate::domain::pending::End;

#[derive(Debug, Clone, Copy)]
enum Op {
    Intend(u8),
    Answer(u8),
    End(u8),
    Reopen,
    /// The log is cut, so far into what is not synced (of 255), and what follows reads as this.
    Crash(u8, u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0..5_u8).prop_map(Op::Intend),
        4 => (0..5_u8).prop_map(Op::Answer),
        3 => (0..5_u8).prop_map(Op::End),
        1 => Just(Op::Reopen),
        3 => (any::<u8>(), prop_oneof![Just(0), any::<u8>()]).prop_map(|(at, rest)| Op::Crash(at, rest)),
    ]
}

/// What is pending, and the entries whose ends may be forgotten.
#[derive(Default)]
struct Model {
    pending: BTreeMap<u8, (u32, bool)>,
    ended: BTreeMap<u8, (u32, bool)>,
}

fn check(model: &Model, found: &Opened) {
    let mut expected: BTreeMap<_, _> = model
        .pending
        .iter()
        .map(|(n, (call, answered))| (account(*n), entry(*n, *call, *answered)))
        .collect();
    for pending in &found.pending {
        let (id, said) = (pending.intent.account, said(pending));
        if let Some(entry) = expected.remove(&id) {
            assert_eq!(said, entry);
            continue;
        }
        let n = id.bytes()[0];
        let ended = model.ended.get(&n);
        assert_eq!(Some(said), ended.map(|(call, answered)| entry(n, *call, *answered)));
    }
    assert!(expected.is_empty(), "lost: {expected:?}");
}

async fn run(ops: Vec<Op>) {
    let dir = folder();
    let disk = Faulty::default();
    let open = || Journal::open_on(Box::new(disk.clone()), dir.path()).unwrap();
    let (mut journal, _) = open();
    let mut model = Model::default();
    for (call, op) in (0_u32..).zip(ops) {
        match op {
            Op::Intend(n) => {
                journal.intend(&intent(n, call)).await.unwrap();
                model.pending.insert(n, (call, false));
                // A later fsync covers the ends before it.
                model.ended.clear();
            }
            Op::Answer(n) => {
                let Some((call, answered)) = model.pending.get_mut(&n) else { continue };
                journal.answer(account(n), &session(n, *call)).await.unwrap();
                *answered = true;
                model.ended.clear();
            }
            Op::End(n) => {
                journal.end(account(n), End::Stored);
                model.ended.extend(model.pending.remove_entry(&n));
            }
            Op::Reopen => {
                journal.close().await;
                let (again, opened) = open();
                assert!(opened.damage.is_empty(), "{:?}", opened.damage);
                model.ended.clear();
                check(&model, &opened);
                journal = again;
            }
            Op::Crash(at, rest) => {
                let copy = crashed(dir.path());
                let log = copy.path().join("log");
                let mut bytes = fs::read(&log).unwrap();
                let (synced, written) = (disk.set().synced, super::super::size(bytes.len()));
                // Ends go out unseen, so the file may hold more than was known a moment ago.
                let end = super::super::size(
                    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |it| it + 1),
                );
                let cut = synced + end.saturating_sub(synced) * u64::from(at) / 255;
                assert!(cut <= written);
                bytes[usize::try_from(cut).unwrap()..].fill(rest);
                fs::write(&log, bytes).unwrap();
                check(&model, &Journal::open(copy.path()).unwrap().1);
            }
        }
        let memory = journal.all();
        check(&model, &Opened { pending: memory, damage: vec![] });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_crash_loses_what_was_acknowledged(ops in vec(op(), 1..40)) {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(run(ops));
    }
}
