//! Small file helpers: bounded reads, directories, and time stamps.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use toolkit::files::{open_regular, read_bounded, read_regular, read_to_limit};

use crate::error::{Error, Result};

/// Returns a path of a node: below `STACKTIRA_ROOT` where it is there, else as it stands.
pub(crate) fn under_root_if_there(path: &Path) -> PathBuf {
    let rooted = toolkit::dirs::under_root(path);
    if rooted.exists() { rooted } else { path.to_owned() }
}

/// Creates a directory and its parents, readable by everybody (what is published is public).
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(Error::write(path))
}

/// Removes a file or a tree; absence is fine.
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::write(path)(error)),
        _ => Ok(()),
    }
}

/// Returns the names in a directory, sorted; a missing directory is empty. Names that are not UTF-8 are left out.
///
/// # Errors
/// [`Error::Read`].
pub(crate) fn names_in(path: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::read(path))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::read(path))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Returns seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Writes a time as RFC 3339 does, in UTC.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / 86400);
    let (hour, minute, second) = clock(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Writes a time as `Release` files do; `zone` is `UTC` there and `GMT` in HTTP.
pub(crate) fn rfc1123(seconds: u64, zone: &str) -> String {
    let days = seconds / 86400;
    let (year, month, day) = civil(days);
    let (hour, minute, second) = clock(seconds);
    let weekday = DAYS[usize::try_from(days % 7).expect("a remainder of 7 is small")];
    let month = MONTHS[usize::try_from(month - 1).expect("a month is small")];
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} {zone}")
}

/// Parses the form of HTTP dates that is in use (`Sun, 06 Nov 1994 08:49:37 GMT`).
pub(crate) fn parse_http_date(text: &str) -> Option<u64> {
    text.ends_with(" GMT").then(|| parse_date(text)).flatten()
}

/// Parses the dates of `Release` files (`Sun, 06 Nov 1994 08:49:37 UTC`); the zone is always UTC.
pub(crate) fn parse_date(text: &str) -> Option<u64> {
    let mut words = text.split_once(", ")?.1.split_ascii_whitespace();
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let utc = matches!(words.next(), Some("GMT" | "UTC" | "Z" | "+0000"));
    if !utc || hour > 23 || minute > 59 || second > 60 || !(1970..=9999).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let era_day = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + era_day;
    Some(days.checked_sub(719_468)? * 86400 + hour * 3600 + minute * 60 + second)
}

/// Returns a path of a repository if it stays inside: relative, without `..`, backslash or control characters.
/// `.` components are dropped.
pub(crate) fn plain(path: &str) -> Option<String> {
    let mut plain = String::with_capacity(path.len());
    if path.len() >= 1000 || path.contains(|c: char| c.is_control() || c == '\\') {
        return None;
    }
    for part in path.split('/') {
        match part {
            "" | ".." => return None,
            "." => {}
            part => {
                if !plain.is_empty() {
                    plain.push('/');
                }
                plain.push_str(part);
            }
        }
    }
    (!plain.is_empty()).then_some(plain)
}

fn clock(seconds: u64) -> (u64, u64, u64) {
    (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// Days since the epoch to year, month and day (the calendar repeats every 400 years, which have 146097 days).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (4_102_444_800, "Fri, 01 Jan 2100 00:00:00 GMT"),
        ] {
            assert_eq!(rfc1123(seconds, "GMT"), text);
            assert_eq!(parse_http_date(text), Some(seconds));
        }
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(parse_http_date("yesterday"), None);
        assert_eq!(parse_http_date("Sun, 06 Nov 0000 08:49:37 GMT"), None);
    }
}
