//! One man page a tool, its subcommands included.
//!
//! Name, synopsis, description and options are rendered by `clap_mangen`. Subcommands get a section of their own instead
//! of pages that nobody installs. The text after the long help is cut at its headings (`Examples:`,
//! `Environment:`, … at the start of a line) into sections; an entry is a term, two spaces or a line end, and its text.

use std::fmt::Write as _;
use std::io::Write as _;

use clap::Command;

/// Sections in the order of man-pages(7); others come before them.
const LAST: [&str; 4] = ["EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES"];

/// Renders the page of a tool.
#[must_use]
pub fn page(mut tool: Command) -> String {
    let after = tool.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let subcommands: Vec<Command> =
        tool.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help").cloned().collect();
    tool.build();
    let name = tool.get_name().to_owned();
    let version = tool.get_version().unwrap_or_default().to_owned();
    let man = clap_mangen::Man::new(tool).manual("Stacktira").source(format!("stacktira {version}"));
    let mut page = Vec::new();
    let rendered = man
        .render_title(&mut page)
        .and_then(|()| man.render_name_section(&mut page))
        .and_then(|()| {
            if subcommands.is_empty() {
                return man.render_synopsis_section(&mut page);
            }
            // Every option of the tool belongs to its commands as well; listing them twice tells nobody anything.
            writeln!(page, ".SH SYNOPSIS\n\\fB{}\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR ...", escape(&name))
        })
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page));
    rendered.expect("memory takes everything");
    let mut page = String::from_utf8(page).expect("clap renders text");
    if !subcommands.is_empty() {
        page.push_str(".SH COMMANDS\n");
        for subcommand in subcommands {
            render_subcommand(&mut page, &name, subcommand);
        }
    }
    let mut sections = sections(&after);
    sections.sort_by_key(|(title, _)| LAST.iter().position(|last| last == title).map_or(0, |position| position + 1));
    for (title, lines) in sections {
        let _ = writeln!(page, ".SH \"{title}\"");
        if title == "EXAMPLES" { verbatim(&mut page, &lines) } else { entries(&mut page, &lines) }
    }
    page
}

fn render_subcommand(page: &mut String, tool: &str, mut subcommand: Command) {
    let options: Vec<clap::Arg> =
        subcommand.get_arguments().filter(|argument| !argument.is_hide_set()).cloned().collect();
    let words = subcommand.render_usage().to_string();
    let words = words.trim_start_matches("Usage: ").split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(page, ".SS \"{}\"", escape(&format!("{tool} {words}")).replace('"', "\\(dq"));
    let about = subcommand.get_long_about().or(subcommand.get_about()).map(ToString::to_string).unwrap_or_default();
    prose(page, &about);
    for option in options {
        let mut terms: Vec<String> = Vec::new();
        terms.extend(option.get_short().map(|short| format!("-{short}")));
        terms.extend(option.get_long().map(|long| format!("--{long}")));
        let names: Vec<String> =
            option.get_value_names().map(|names| names.iter().map(ToString::to_string).collect()).unwrap_or_default();
        let takes_value = option.get_num_args().is_none_or(|count| count.takes_values())
            && !matches!(
                option.get_action(),
                clap::ArgAction::SetTrue | clap::ArgAction::SetFalse | clap::ArgAction::Count
            );
        let mut term = terms.iter().map(|term| format!("\\fB{}\\fR", escape(term))).collect::<Vec<_>>().join(", ");
        if option.is_positional() || takes_value {
            let value = if names.is_empty() { option.get_id().to_string().to_uppercase() } else { names.join(" ") };
            let gap = if term.is_empty() { "" } else { " " };
            let _ = write!(term, "{gap}\\fI{}\\fR", escape(&value));
        }
        let help = option.get_long_help().or(option.get_help()).map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(page, ".TP\n{term}");
        let mut text = help.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>();
        let defaults: Vec<String> =
            option.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        let values: Vec<String> = option
            .get_possible_values()
            .iter()
            .filter(|value| takes_value && !value.is_hide_set())
            .map(|value| match value.get_help() {
                Some(help) => format!("{} ({help})", value.get_name()),
                None => value.get_name().to_owned(),
            })
            .collect();
        if !values.is_empty() {
            text.push(format!("One of: {}", values.join(", ")));
        }
        if takes_value && defaults.iter().any(|default| !default.is_empty()) {
            text.push(format!("Default: {}", defaults.join(" ")));
        }
        let _ = writeln!(page, "{}", text.iter().map(|part| line(part)).collect::<Vec<_>>().join("\n.IP\n"));
    }
}

/// Paragraphs; a block of lines that are all indented stays as it is.
fn prose(page: &mut String, text: &str) {
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        let lines: Vec<&str> = paragraph.lines().collect();
        if lines.iter().all(|line| line.starts_with("  ")) {
            verbatim(page, &lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        } else {
            let _ = writeln!(page, ".PP\n{}", line(&lines.join(" ")));
        }
    }
}

/// Cuts the text after the help at its headings.
fn sections(text: &str) -> Vec<(String, Vec<String>)> {
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for text_line in text.lines() {
        match text_line.strip_suffix(':').filter(|heading| !heading.is_empty() && !heading.starts_with(' ')) {
            Some(heading) => sections.push((heading.to_uppercase(), Vec::new())),
            None => {
                if sections.is_empty() {
                    sections.push(("NOTES".to_owned(), Vec::new()));
                }
                let (_, lines) = sections.last_mut().expect("just made sure");
                lines.push(text_line.to_owned());
            }
        }
    }
    sections
}

fn verbatim(page: &mut String, lines: &[String]) {
    page.push_str(".PP\n.RS 4\n.nf\n");
    let end = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
    for text in &lines[..end] {
        let _ = writeln!(page, "{}", line_verbatim(text.strip_prefix("  ").unwrap_or(text)));
    }
    page.push_str(".fi\n.RE\n");
}

/// Entries of a list: a line indented by two spaces begins one, deeper lines go on.
fn entries(page: &mut String, lines: &[String]) {
    let mut text: Vec<String> = Vec::new();
    let mut open = false;
    let flush = |page: &mut String, text: &mut Vec<String>| {
        if !text.is_empty() {
            let _ = writeln!(page, "{}", line(&text.join(" ")));
            text.clear();
        }
    };
    for (position, full) in lines.iter().enumerate() {
        let content = full.trim();
        let depth = full.len() - full.trim_start().len();
        if content.is_empty() {
            flush(page, &mut text);
            open = false;
        } else if depth > 2 {
            text.push(content.to_owned());
        } else if let Some((term, rest)) = content.split_once("  ") {
            flush(page, &mut text);
            let _ = writeln!(page, ".TP\n\\fB{}\\fR", escape(term));
            text.push(rest.trim().to_owned());
            open = false;
        } else if lines.get(position + 1).is_some_and(|next| next.len() - next.trim_start().len() > 2) {
            flush(page, &mut text);
            let _ = writeln!(page, ".TP\n\\fB{}\\fR", escape(content));
            open = false;
        } else {
            if !open {
                flush(page, &mut text);
                page.push_str(".PP\n");
                open = true;
            }
            text.push(content.to_owned());
        }
    }
    flush(page, &mut text);
}

/// Makes text safe for one line of running text.
fn line(text: &str) -> String {
    let escaped = escape(text.trim());
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

/// As [`line`], with the indentation kept.
fn line_verbatim(text: &str) -> String {
    let escaped = escape(text.trim_end());
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '`' => escaped.push_str("\\(ga"),
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use clap::Arg;
    use clap::builder::{PossibleValue, PossibleValuesParser};

    use super::*;

    #[test]
    fn help_becomes_sections() {
        let tool = Command::new("tool").version("1").about("Does it").after_long_help(
            "Examples:\n  tool 'a\\b'\n      .hidden\n\nEnvironment:\n  HOME  Where\n        it is\n  A, B\n      Both\n\n  \
             And more\n  of it.\n\nExit status:\n  0   done",
        );
        let page = page(tool);
        let after = page.split(".SH \"EXIT STATUS\"\n").nth(1).expect("the section");
        assert_eq!(
            after,
            ".TP\n\\fB0\\fR\ndone\n.SH \"ENVIRONMENT\"\n.TP\n\\fBHOME\\fR\nWhere it is\n.TP\n\\fBA, B\\fR\nBoth\n.PP\n\
             And more of it.\n.SH \"EXAMPLES\"\n.PP\n.RS 4\n.nf\ntool \\(aqa\\eb\\(aq\n    .hidden\n.fi\n.RE\n"
        );
    }

    #[test]
    fn options_of_commands_say_their_values_and_defaults() {
        let form = PossibleValuesParser::new([PossibleValue::new("json").help("One line"), PossibleValue::new("s")]);
        let go = Command::new("go")
            .arg(
                Arg::new("form").long("form").value_name("FORM").help("The form").default_value("s").value_parser(form),
            )
            .arg(Arg::new("reason").long("reason").value_name("TEXT").help("Why").default_value(""))
            .arg(Arg::new("all").long("all").action(clap::ArgAction::SetTrue).help("Everything"));
        let page = page(Command::new("tool").version("1").about("Does it").subcommand(go));
        let command = page.split(".SS ").nth(1).expect("the command");
        assert!(
            command.ends_with(
                ".TP\n\\fB\\-\\-form\\fR \\fIFORM\\fR\nThe form\n.IP\nOne of: json (One line), s\n.IP\nDefault: s\n\
                 .TP\n\\fB\\-\\-reason\\fR \\fITEXT\\fR\nWhy\n.TP\n\\fB\\-\\-all\\fR\nEverything\n"
            ),
            "{command}"
        );
    }

    #[test]
    fn every_tool_has_the_sections_that_people_look_for() {
        for tool in crate::tools() {
            let name = tool.get_name().to_owned();
            let page = page(tool);
            for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "\"EXIT STATUS\"", "ENVIRONMENT", "EXAMPLES"]
            {
                let heading = section.trim_matches('"');
                let found = page
                    .lines()
                    .any(|line| line.strip_prefix(".SH ").is_some_and(|title| title.trim_matches('"') == heading));
                assert!(found, "{name} has no section {heading}");
            }
        }
    }
}
