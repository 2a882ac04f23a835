//! The command lines that programs use, read without clap.
//!
//! Building clap's tables costs more than a whole kick. So the plain shapes (each option as a word of its own with its
//! value as the next, then the command) are read here; everything else, and everything that could be wrong, is
//! left to clap, which decides and explains. What always holds: an answer of ours is clap's answer.

use std::ffi::{OsStr, OsString};

use toolkit::args::duration;

use crate::cli::{Cli, IfBusy};
use crate::dir::QueueName;
use crate::policy::{Codes, Pauses};

/// Reads a command line (without the program's name) if it is one of the plain ones.
#[must_use]
pub fn read(args: &[OsString]) -> Option<Cli> {
    let mut cli = Cli::default();
    let mut if_busy = None;
    let mut rest = args;
    while let [first, after @ ..] = rest {
        if first == "--" {
            rest = after;
            break;
        }
        if !first.as_encoded_bytes().starts_with(b"-") {
            break;
        }
        let value = || after.first().and_then(plain);
        match first.to_str()? {
            "-f" | "--foreground" => set(&mut cli.foreground)?,
            "-q" | "--quiet" => set(&mut cli.verbosity.quiet)?,
            "--puppet" => set(&mut cli.puppet)?,
            "--resume" => set(&mut cli.resume)?,
            "--lead" => set(&mut cli.lead)?,
            valued => {
                let value = value()?;
                match valued {
                    "-Q" | "--queue" => put(&mut cli.queue, QueueName::parse(value).ok()?)?,
                    "--heir" => put(&mut cli.heir, value.parse().ok()?)?,
                    "--success" => put(&mut cli.success, Codes::parse(value).ok()?)?,
                    "--retry" => put(&mut cli.retry, Codes::parse(value).ok()?)?,
                    "--backoff" => put(&mut cli.backoff, Pauses::parse(value).ok()?)?,
                    "--timeout" => put(&mut cli.timeout, duration(value).ok()?)?,
                    "--kill-after" => put(&mut cli.kill_after, duration(value).ok()?)?,
                    "--debounce" => put(&mut cli.debounce, Pauses::parse(value).ok()?)?,
                    "--splay" => put(&mut cli.splay, duration(value).ok()?)?,
                    "--metrics" => put(&mut cli.metrics, value.to_owned())?,
                    "--on-finish" => put(&mut cli.on_finish, value.to_owned())?,
                    "--reason" => put(&mut cli.reason, value.to_owned())?,
                    "--if-busy" => put(&mut if_busy, IfBusy::named(value)?)?,
                    _ => return None,
                }
                rest = &after[1..];
                continue;
            }
        }
        rest = after;
    }
    cli.command = rest.to_vec();
    let role = usize::from(cli.lead) + usize::from(cli.heir.is_some());
    let fits = match cli.command.first() {
        Some(command) => role == 0 && !command.is_empty() && !(cli.foreground && cli.resume),
        None => role == 1 && cli == role_only(&cli),
    };
    let busy_fits = if_busy.is_none() || !(cli.foreground || cli.resume || role == 1);
    cli.if_busy = if_busy.unwrap_or(IfBusy::Kick);
    (fits && busy_fits).then_some(cli)
}

/// Returns what a process of `ts` itself may be told: its role and its queue.
fn role_only(cli: &Cli) -> Cli {
    Cli { queue: cli.queue.clone(), lead: cli.lead, heir: cli.heir, ..Cli::default() }
}

/// Returns a value about which there can be no doubt.
fn plain(value: &OsString) -> Option<&str> {
    let text: &OsStr = value;
    text.to_str().filter(|text| !text.is_empty() && !text.starts_with('-'))
}

/// Sets a flag; given twice, it is clap's matter.
fn set(flag: &mut bool) -> Option<()> {
    (!std::mem::replace(flag, true)).then_some(())
}

/// Sets an option; given twice, it is clap's matter.
fn put<T>(option: &mut Option<T>, value: T) -> Option<()> {
    option.replace(value).is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// Words that mean something somewhere, and some that do not.
    const WORDS: [&str; 45] = [
        "-f",
        "--foreground",
        "-q",
        "--quiet",
        "-v",
        "--puppet",
        "--resume",
        "--lead",
        "--heir",
        "--heir=1",
        "-Q",
        "-Qq",
        "--queue",
        "--queue=q",
        "--success",
        "--retry",
        "--backoff",
        "--timeout",
        "--kill-after",
        "--debounce",
        "--splay",
        "--metrics",
        "--on-finish",
        "--reason",
        "--if-busy",
        "--",
        "-",
        "",
        "-s",
        "-l",
        "--json",
        "-w",
        "-fq",
        "--bogus",
        "default",
        "1",
        "0,2",
        "1s..2s",
        "5s",
        "kick",
        "join",
        "true",
        "sh",
        "-c",
        "a b",
    ];

    #[test]
    fn an_answer_is_claps_answer() {
        // xorshift: the same words in every run of the test.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).expect("small")
        };
        let mut read_here = 0;
        for _ in 0..20_000 {
            let mut args: Vec<OsString> = (0..random(7)).map(|_| WORDS[random(WORDS.len())].into()).collect();
            // Half of them are likelier: an option, its value, a command.
            if random(2) == 0 {
                let (option, value) = (WORDS[10 + random(15)], WORDS[34 + random(8)]);
                args = [vec![option.into(), value.into()], args, vec!["true".into()]].concat();
            }
            if let Some(cli) = read(&args) {
                read_here += 1;
                let whole = [vec!["ts".into()], args.clone()].concat();
                let clap = Cli::try_parse_from(whole);
                assert_eq!(clap.ok().as_ref(), Some(&cli), "{args:?}");
            }
        }
        assert!(read_here > 1000, "{read_here}");
    }

    #[test]
    fn what_scripts_write_is_read_here() {
        for args in [
            &["true"][..],
            &["-Q", "converge", "--puppet", "--timeout", "90m", "--reason", "watch x", "/x/converge.sh", "--debug"],
            &["-f", "-Q", "q", "--", "-odd"],
            &["--resume", "-Q", "q", "sh", "-c", "x"],
            &["--lead", "-Q", "q"],
            &["--heir", "3", "-Q", "q"],
        ] {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            assert!(read(&args).is_some(), "{args:?}");
        }
    }
}
