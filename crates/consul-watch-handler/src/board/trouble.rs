//! What keeps a watch from being known, and how often that is said: once, and once that it is over.

use std::collections::BTreeMap;

use consul_client::Class;
use toolkit::exit::chain;

use super::common::{Common, Message};

/// What keeps a part of a watch from being known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Consul does not answer, which concerns all watches alike.
    Outage,
    /// A matter of this watch: a right, or the answer itself.
    Own(Class),
}

impl Trouble {
    fn of(error: &consul_client::Error) -> Trouble {
        use consul_client::Error as E;
        match (error, error.class()) {
            (E::Unreachable { .. } | E::Timeout { .. } | E::NoLeader { .. } | E::Status { .. }, Class::Unavailable) => {
                Trouble::Outage
            }
            (_, class) => Trouble::Own(class),
        }
    }
}

/// The troubles of one watch, by its parts.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<String, Trouble>);

impl Troubles {
    /// Says loudly that a part of the watch is in trouble, unless the same is known of another part or of this one.
    pub(super) fn begin(&mut self, common: &Common, watch: &str, part: &str, error: &consul_client::Error) {
        let trouble = Trouble::of(error);
        let before = self.0.insert(part.to_owned(), trouble);
        if before == Some(Trouble::Outage) && trouble != Trouble::Outage {
            common.answered(watch, part);
        }
        let hint = error.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        // That Consul does not answer concerns all watches alike: it is said once for the process.
        if trouble == Trouble::Outage {
            if common.silent(watch, part) {
                let text = format!("unknown, the last state stays for all watches: {}{hint}", chain(error));
                common.tell(Message::Warn(text));
            }
            return;
        }
        let known = self.0.iter().any(|(other, known)| *known == trouble && (other != part || before == Some(trouble)));
        if !known {
            let text = format!("{watch}: unknown, the last state stays: {}{hint}", chain(error));
            common.tell(Message::Warn(text));
        }
    }

    /// Takes back the trouble of a part.
    pub(super) fn end(&mut self, common: &Common, watch: &str, part: &str) {
        let told = match self.0.remove(part) {
            Some(Trouble::Outage) => common.answered(watch, part).then(|| "Consul answers again".to_owned()),
            Some(_) => {
                let others_are_silent_only = self.0.values().all(|trouble| *trouble == Trouble::Outage);
                others_are_silent_only.then(|| format!("{watch}: Consul answers again"))
            }
            None => None,
        };
        if let Some(text) = told {
            common.tell(Message::Recovered(text));
        }
    }

    /// Forgets them: the watch is no longer wanted.
    pub(super) fn drop_all(&mut self, common: &Common, watch: &str) {
        for part in std::mem::take(&mut self.0).into_keys() {
            common.answered(watch, &part);
        }
    }

    /// Returns the parts in trouble for which `is` holds.
    pub(super) fn parts(&self, is: impl Fn(&str) -> bool) -> Vec<String> {
        self.0.keys().filter(|part| is(part)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn denied() -> consul_client::Error {
        consul_client::Error::Denied { what: "x".into(), detail: "y".into() }
    }

    #[test]
    fn trouble_is_told_once_and_so_is_its_end() {
        let (say, heard) = channel();
        let (common, mut troubles) = (Common::new(say, None), Troubles::default());
        for part in ["", "service a", ""] {
            troubles.begin(&common, "w", part, &denied());
        }
        for part in ["", "service a", ""] {
            troubles.end(&common, "w", part);
        }
        let told: Vec<Message> = heard.try_iter().collect();
        assert!(matches!(told.as_slice(), [Message::Warn(_), Message::Recovered(_)]), "{told:?}");
    }

    #[test]
    fn an_outage_is_told_once_for_all_watches() {
        let (say, heard) = channel();
        let common = Common::new(say, None);
        let down = || consul_client::Error::NoLeader { address: "x".into(), request: "y".into(), detail: "z".into() };
        let [mut a, mut b, mut c] = [Troubles::default(), Troubles::default(), Troubles::default()];
        for _ in 0..2 {
            a.begin(&common, "a", "", &down());
            b.begin(&common, "b", "", &down());
            c.begin(&common, "c", "", &down());
        }
        c.drop_all(&common, "c");
        a.end(&common, "a", "");
        // One of them may not see what it asks for: that is its own matter.
        b.begin(&common, "b", "", &denied());
        a.begin(&common, "a", "", &down());
        a.end(&common, "a", "");
        b.end(&common, "b", "");
        let told: Vec<String> = heard.try_iter().map(|message| format!("{message:?}")).collect();
        assert_eq!(told.len(), 5, "{told:#?}");
        assert!(told[0].starts_with("Warn(\"unknown, the last state stays for all watches"), "{told:#?}");
        assert!(told[1].starts_with("Warn(\"b: unknown"), "{told:#?}");
        assert!(told[2].contains("for all watches") && told[3] == "Recovered(\"Consul answers again\")", "{told:#?}");
        assert_eq!(told[4], "Recovered(\"b: Consul answers again\")");
    }
}
