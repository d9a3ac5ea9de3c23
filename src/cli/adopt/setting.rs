//! Writes settings into a `.env` file and leaves the rest of it as it is.

use std::fs;
use std::io;
use std::path::Path;

/// What became of settings that were to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// They stand in the file.
    Done,
    /// There is no such file, and none was made.
    NoFile,
}

/// Writes settings into a file that is there, whole or not at all.
pub(super) fn write(file: &Path, settings: &[(&str, String)]) -> io::Result<Written> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Written::NoFile),
        Err(error) => return Err(error),
    };
    let new = settings.iter().fold(text, |text, (name, value)| with(&text, name, value));
    // It holds secrets: the new one is nobody else's to read, either. Where it is a link, what it points at changes.
    let place = fs::canonicalize(file)?;
    let mut beside = place.clone().into_os_string();
    beside.push(".new");
    fs::write(&beside, "")?;
    let swapped = fs::metadata(&place)
        .and_then(|known| fs::set_permissions(&beside, known.permissions()))
        .and_then(|()| fs::write(&beside, new))
        .and_then(|()| fs::rename(&beside, &place));
    if swapped.is_err() {
        drop(fs::remove_file(&beside));
    }
    swapped.map(|()| Written::Done)
}

/// The text with one setting changed: in its line, else in the one that shows its default, else at the end.
fn with(text: &str, name: &str, value: &str) -> String {
    let is_set = |line: &str| {
        let line = line.trim_start();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let is_shown = |line: &str| line.strip_prefix('#').is_some_and(is_set);
    let lines: Vec<&str> = text.lines().collect();
    // Of two lines for one setting, the last may count: none of them is left.
    let place = lines
        .iter()
        .position(|line| is_set(line))
        .or_else(|| lines.iter().position(|line| is_shown(line)));
    let setting = format!("{name}={value}");
    let mut new: Vec<&str> = Vec::new();
    for (at, line) in lines.into_iter().enumerate() {
        if Some(at) == place {
            new.push(&setting);
        } else if !is_set(line) {
            new.push(line);
        }
    }
    if place.is_none() {
        new.push(&setting);
    }
    new.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_setting_is_changed_where_it_stands() {
        for (text, expected) in [
            ("", "Q=new\n"),
            ("A=1", "A=1\nQ=new\n"),
            ("A=1\nQ=old\nB=2\n", "A=1\nQ=new\nB=2\n"),
            ("export Q = old\n", "Q=new\n"),
            ("# Which?\n#Q=off\nB=2\n", "# Which?\nQ=new\nB=2\n"),
            ("#Q=off\nQ=old\n", "#Q=off\nQ=new\n"),
            ("Q=1\nA=2\nQ=3\n", "Q=new\nA=2\n"),
            ("QQ=1\n", "QQ=1\nQ=new\n"),
            ("# Q and A\n", "# Q and A\nQ=new\n"),
        ] {
            assert_eq!(with(text, "Q", "new"), expected, "{text:?}");
        }
    }

    #[test]
    fn a_file_is_replaced_with_its_rights_and_none_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".env");
        let settings = [("A", "1".to_owned()), ("B", "2".to_owned())];
        assert_eq!(write(&file, &settings).unwrap(), Written::NoFile);
        assert!(!file.exists());
        fs::write(&file, "SECRET=x\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(write(&file, &settings).unwrap(), Written::Done);
        assert_eq!(fs::read_to_string(&file).unwrap(), "SECRET=x\nA=1\nB=2\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
