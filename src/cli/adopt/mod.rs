//! `refreshd adopt`: takes the application's queue of refresh requests over from the old worker, after showing
//! what that changes and a yes.

mod setting;

use std::io::{self, BufRead as _};
use std::path::Path;

use super::args::AdoptArgs;
use super::connect::connect;
use super::output::{counted, line, note};
use crate::bullmq::requests::{Requests, Schedule, Step};
use crate::config::{self, Config, Sources};
use crate::lifecycle::Exit;
use crate::requests::{Outlook, piled_up};
use setting::{Written, write};

/// Where the setting is written, if the file is there.
const DOTENV: &str = ".env";

/// What is going to be done.
struct Plan<'a> {
    requests: &'a Requests,
    outlook: &'a Outlook,
    /// The schedules that go.
    removed: Vec<&'a Schedule>,
    /// The one that goes to the queue for other platforms.
    moved: Option<&'a Schedule>,
    /// The settings that are not as they are to be.
    settings: Vec<(&'static str, String)>,
}

/// Shows what there is and what would change, asks, and does it.
pub(super) async fn adopt(config: &Config, args: &AdoptArgs) -> anyhow::Result<Exit> {
    let services = connect(config).await?;
    let known = &config.requests;
    let queue = args.queue.as_deref().or(known.queue.as_deref());
    let queue = queue.unwrap_or(config::Requests::USUAL);
    let other = args.other.as_deref().or(known.other.as_deref());
    if Some(queue) == other {
        anyhow::bail!(
            "--other must name another queue than {queue}: jobs cannot be moved to where they are"
        );
    }
    if let Some(name) = [Some(queue), other]
        .into_iter()
        .flatten()
        .find(|it| config.posts.queues.iter().any(|posts| posts == it))
    {
        anyhow::bail!(
            "{name} is one of BULLMQ_POST_QUEUES: posts and requests need queues of their own"
        );
    }
    let requests = Requests::new(services.link.clone(), &config.posts.prefix, queue, other);
    let Some(outlook) = Outlook::of(&requests, &services.store).await? else {
        anyhow::bail!(
            "BullMQ has never used the queue {queue} on {}: is its name, BULLMQ_PREFIX, or REDIS_DB another?",
            services.link.place()
        );
    };
    show(&requests, &outlook)?;
    if !outlook.consumers().is_empty() {
        note(format_args!(
            "nothing was changed: other workers serve {queue}. Stop them, or point them at another queue and name it \
             with --other; then run this again"
        ));
        return Ok(Exit::Failed);
    }
    let plan = Plan::new(config, &requests, &outlook);
    if plan.is_empty() {
        note(format_args!(
            "nothing to do: {queue} is served from here, and no schedules have piled up"
        ));
        return Ok(Exit::Fine);
    }
    plan.tell()?;
    if !args.yes && !is_agreed()? {
        note("nothing was changed");
        return Ok(Exit::Failed);
    }
    plan.carry_out().await
}

fn show(requests: &Requests, outlook: &Outlook) -> io::Result<()> {
    let (queue, depth) = (requests.queue(), outlook.depth);
    let paused = if depth.is_paused { ", paused" } else { "" };
    line(format_args!(
        "{queue}: {} waiting, {} active, {} delayed, {} failed{paused}",
        depth.waiting, depth.active, depth.delayed, depth.failed
    ))?;
    match outlook.consumers.as_deref() {
        None => line(
            "  whether others serve it cannot be told: this Redis user may not use CLIENT LIST",
        )?,
        Some([]) => line("  nobody else serves it now")?,
        Some(others) => line(format_args!("  other workers serve it, from {}", others.join(", ")))?,
    }
    let all = piled_up(&outlook.schedules);
    line(format_args!("  {} of refresh-all-tokens", counted(length(&all), "repeatable schedule")))?;
    for schedule in &all {
        line(format_args!("    {}  {}", schedule.key, schedule.pattern))?;
    }
    let left = outlook.schedules.len() - all.len();
    if left > 0 {
        line(format_args!("  {left} of other jobs, which are left alone"))?;
    }
    if outlook.others.is_empty() {
        return line("  no accounts of other platforms");
    }
    let list: Vec<_> = outlook.others.iter().map(|(name, n)| format!("{name} {n}")).collect();
    line(format_args!("  accounts of other platforms: {}", list.join(", ")))
}

fn length<T>(list: &[T]) -> u64 {
    u64::try_from(list.len()).unwrap_or(u64::MAX)
}

fn is_agreed() -> io::Result<bool> {
    note("\nDo it? yes or no:");
    let mut answer = String::new();
    // Nobody there is a no.
    io::stdin().lock().read_line(&mut answer)?;
    Ok(["yes", "y"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

impl<'a> Plan<'a> {
    fn new(config: &Config, requests: &'a Requests, outlook: &'a Outlook) -> Self {
        let mut removed = piled_up(&outlook.schedules);
        // Other platforms keep one, unless they have one: of those that go on, the next that is due.
        let has_others = requests.other().is_some() && outlook.other_accounts() > 0;
        let have = piled_up(&outlook.other_schedules).iter().any(|schedule| schedule.is_live);
        removed.sort_by_key(|schedule| (schedule.is_live, std::cmp::Reverse(schedule.next)));
        let moved = removed.pop_if(|schedule| has_others && !have && schedule.is_live);
        let wanted = [
            ("BULLMQ_REFRESH_QUEUE", Some(requests.queue()), &config.requests.queue),
            ("BULLMQ_OTHER_QUEUE", requests.other(), &config.requests.other),
        ];
        let settings = wanted
            .into_iter()
            .filter(|(_, wanted, now)| *wanted != now.as_deref())
            .filter_map(|(name, wanted, _)| Some((name, wanted?.to_owned())))
            .collect();
        Self { requests, outlook, removed, moved, settings }
    }

    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.moved.is_none() && self.settings.is_empty()
    }

    fn tell(&self) -> io::Result<()> {
        let queue = self.requests.queue();
        line("\nThis would")?;
        if !self.settings.is_empty() {
            line(format_args!(
                "  - have refreshd serve {queue} from its next start on: Bluesky's accounts are refreshed"
            ))?;
        }
        match self.requests.other() {
            Some(other) => line(format_args!(
                "  - move jobs for other platforms, unchanged, to {other} for their worker"
            ))?,
            None if self.outlook.other_accounts() > 0 => line(format_args!(
                "  - let jobs for other platforms FAIL with unsupported_platform: name their worker's queue with --other"
            ))?,
            None => {}
        }
        if !self.removed.is_empty() {
            let many = counted(length(&self.removed), "schedule");
            line(format_args!(
                "  - remove {many} of refresh-all-tokens: REFRESH_CRON does their work"
            ))?;
        }
        if let (Some(schedule), Some(other)) = (self.moved, self.requests.other()) {
            line(format_args!(
                "  - move one schedule to {other}, for the other platforms: {}",
                schedule.key
            ))?;
        }
        for (name, value) in &self.settings {
            line(format_args!("  - set {name}={value}"))?;
        }
        Ok(())
    }

    /// The setting comes last: when something goes wrong before, the old worker's queue is served as it was. Schedules
    /// that are gone by then come back with the application's next start.
    async fn carry_out(&self) -> anyhow::Result<Exit> {
        let mut removed = 0;
        for schedule in &self.removed {
            removed += u64::from(self.requests.unschedule(schedule).await? == Step::Done);
        }
        if !self.removed.is_empty() {
            line(format_args!("removed {}", counted(removed, "schedule")))?;
        }
        if let Some(schedule) = self.moved {
            match self.requests.move_schedule(schedule).await? {
                Step::Done => line(format_args!("moved the schedule {}", schedule.key))?,
                Step::Duplicate => {
                    // The same one stands there already.
                    self.requests.unschedule(schedule).await?;
                    line(format_args!(
                        "removed the schedule {}, which stands there already",
                        schedule.key
                    ))?;
                }
                Step::Gone | Step::Lost => line(format_args!(
                    "the schedule {} went on meanwhile and was not moved: run this again",
                    schedule.key
                ))?,
            }
        }
        if self.settings.is_empty() {
            return Ok(Exit::Fine);
        }
        match write(Path::new(DOTENV), &self.settings)? {
            Written::Done if self.is_in_force() => line(format_args!("wrote {DOTENV}"))?,
            Written::Done => {
                line(format_args!(
                    "wrote {DOTENV}, but the environment says otherwise and goes before it; set there:"
                ))?;
                self.print()?;
            }
            Written::NoFile => {
                line("set this where refreshd's settings are:")?;
                self.print()?;
            }
        }
        note("restart refreshd; `refreshd check` then says whether the queue is served");
        Ok(Exit::Fine)
    }

    fn print(&self) -> io::Result<()> {
        self.settings.iter().try_for_each(|(name, value)| line(format_args!("{name}={value}")))
    }

    /// Whether a daemon that starts here now would serve the queue.
    fn is_in_force(&self) -> bool {
        Config::load(&Sources::of_process()).is_ok_and(|config| {
            config.requests.queue.as_deref() == Some(self.requests.queue())
                && config.requests.other.as_deref() == self.requests.other()
        })
    }
}
