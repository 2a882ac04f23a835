//! `--metrics`: a run's figures for Prometheus, as a text file for node_exporter's textfile collector.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::report::{Line, State};

/// What a run came to.
pub(crate) struct Figures<'a> {
    pub(crate) lines: &'a [Line],
    pub(crate) code: u8,
    pub(crate) took: Duration,
}

/// Writes the figures; the file appears whole.
pub(crate) fn write(path: &Path, figures: &Figures<'_>) -> std::io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    toolkit::atomic::write(path, text(figures, now).as_bytes(), 0o644).map(drop)
}

fn text(figures: &Figures<'_>, now: Duration) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, help: &str, values: &[(String, String)]| {
        // Writing to a string cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        for (labels, value) in values {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let plain = |value: String| vec![(String::new(), value)];
    metric("cloner_last_run_time_seconds", "When the last run ended.", &plain(format!("{:.3}", now.as_secs_f64())));
    let took = format!("{:.3}", figures.took.as_secs_f64());
    metric("cloner_last_run_duration_seconds", "How long it took.", &plain(took));
    metric("cloner_last_run_exit_code", "Its exit code; 0 is success.", &plain(figures.code.to_string()));
    let states: Vec<(String, String)> = State::ALL
        .iter()
        .map(|state| (*state, figures.lines.iter().filter(|line| line.state == *state).count()))
        .filter(|(state, count)| *count > 0 || State::USUAL.contains(state))
        .map(|(state, count)| (format!("{{state=\"{}\"}}", state.word()), count.to_string()))
        .collect();
    metric("cloner_repositories", "Repositories of the last run by what became of them.", &states);
    let failed: Vec<(String, String)> = figures
        .lines
        .iter()
        .filter(|line| line.state == State::Failed)
        .map(|line| {
            let labels = [("name", line.name()), ("dest", line.dest()), ("cause", &line.cause_word())]
                .map(|(label, value)| format!("{label}=\"{}\"", escape(value)));
            (format!("{{{}}}", labels.join(",")), "1".to_owned())
        })
        .collect();
    metric("cloner_repository_failed", "Repositories that failed in the last run.", &failed);
    text
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Cause, Fault};
    use crate::manifest::Repo;

    #[test]
    fn figures_are_in_the_form_of_prometheus() {
        let repo = |name: &str| Repo {
            name: name.to_owned(),
            path: name.to_owned(),
            source: "s".to_owned(),
            reference: None,
            dest: format!("m/{name}"),
            submodules: true,
            signed: None,
            signers: None,
            at: String::new(),
        };
        let lines = [
            Line::new(&repo("a"), State::Placed, None, None),
            Line::failed(&repo("b\"\\"), None, Fault::new(Cause::Network, "x")),
        ];
        let figures = Figures { lines: &lines, code: 1, took: Duration::from_millis(1500) };
        let text = text(&figures, Duration::from_secs(7));
        for line in [
            "cloner_last_run_time_seconds 7.000",
            "cloner_last_run_duration_seconds 1.500",
            "cloner_last_run_exit_code 1",
            "cloner_repositories{state=\"placed\"} 1",
            "cloner_repositories{state=\"failed\"} 1",
            "cloner_repositories{state=\"unchanged\"} 0",
            "cloner_repository_failed{name=\"b\\\"\\\\\",dest=\"m/b\\\"\\\\\",cause=\"network\"} 1",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in:\n{text}");
        }
    }
}
