//! What people read: lines, tables, times. Whoever closes the pipe has read enough.

use std::fmt::Display;
use std::io::{self, Write as _};

use chrono::{DateTime, TimeDelta, Utc};
use comfy_table::{ContentArrangement, Table, presets};

/// Writes a line of the answer to stdout.
pub(super) fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Writes a line beside the answer to stderr; nobody has to be there to read it.
pub(super) fn note(text: impl Display) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// An empty table without a frame, which other programs can take apart, too.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table
}

/// A table as text, without spaces at the ends of its lines.
pub(super) fn tidy(table: &Table) -> String {
    table.lines().map(|text| text.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A time as a distance from `now`: `in 2 h`, `3 d ago`, `-` for none.
pub(super) fn distance(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> String {
    let Some(at) = at else { return "-".to_owned() };
    let delta = at - now;
    let length = span(delta.abs());
    if delta > TimeDelta::zero() { format!("in {length}") } else { format!("{length} ago") }
}

/// A length of time in its largest unit, rounded down; the two largest where that says little.
pub(super) fn span(delta: TimeDelta) -> String {
    let seconds = delta.num_seconds();
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..36_000 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        36_000..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `1 account`, `2 accounts`.
pub(super) fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_now() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(9_000);
        for (seconds, text) in [
            (0, "0 s ago"),
            (59, "in 59 s"),
            (-60, "1 min ago"),
            (3_599, "in 59 min"),
            (7_260, "in 2 h 1 min"),
            (-36_000, "10 h ago"),
            (172_799, "in 47 h"),
            (-172_800, "2 d ago"),
        ] {
            assert_eq!(distance(Some(now + TimeDelta::seconds(seconds)), now), text);
        }
        assert_eq!(distance(None, now), "-");
    }
}
