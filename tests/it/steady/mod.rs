//! The whole product over many lives of its tokens: what holds at every second, whatever happens to
//! its parts. `scripts/test --long` has more accounts and takes longer.

mod budget;
mod chaos;
mod import;
mod scale;

use std::time::Duration;

use crate::harness::is_long;
use crate::harness::scripted_pds::ScriptedPds;
use crate::harness::world::World;

/// An access token's life here: a minute stands for an hour.
const LIFE: Duration = Duration::from_mins(2);

/// How long an account goes from one refresh to the next, with the default lead of a quarter.
const CYCLE: Duration = Duration::from_secs(90);

/// The settings of an instance of the release program.
fn settings(world: &World, pds: &ScriptedPds, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut settings = world.settings(pds.url().as_str());
    settings.push(("KEEP_FRESH".to_owned(), "true".to_owned()));
    settings.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    settings
}

fn amount(normal: usize, long: usize) -> usize {
    if is_long() { long } else { normal }
}
