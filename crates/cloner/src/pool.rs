//! All repositories at once: a pool of workers, and one thread that deals out work and takes what comes back.
//!
//! Those of one source are one job. A tree that has submodules brings more jobs when it is staged; a source
//! that is being worked on takes what is found for it meanwhile when it is done. When nothing is left, each
//! tree gets its submodules ([`assemble`]).

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use toolkit::Io;

use crate::Entry;
use crate::assemble::{self, Node};
use crate::batch;
use crate::fault::Fault;
use crate::job::{Member, Progress, Setup, What};
use crate::progress;

/// What one worker does at a time: members of one source, and the name of that.
struct Group<'a> {
    key: Option<String>,
    members: Vec<Member<'a>>,
}

/// What a worker says.
enum Event {
    Begun(String),
    /// It waits for a server, so another one has a processor.
    Waits,
    Done(Option<String>, String, Vec<(usize, Result<Progress, Fault>)>),
}

/// Works on all repositories, `jobs` sources at a time; results are in the manifest's order.
pub(crate) fn work(setup: &Setup<'_>, entries: &[Entry], jobs: usize, io: &mut Io) -> Vec<Result<Progress, Fault>> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut members = Vec::new();
    for (number, (repo, dest)) in entries.iter().enumerate() {
        nodes.push(Node { result: dest.as_ref().err().cloned().map(Err), parts: Vec::new() });
        if let Ok(dest) = dest {
            members.push(Member { number, what: What::Listed(repo, dest) });
        }
    }
    let mut progress = progress::Progress::new(members.len());
    let (to_workers, work) = channel();
    let work = Mutex::new(work);
    let (to_dealer, events) = channel();
    std::thread::scope(|scope| {
        let mut dealer = Dealer { setup, to_workers, busy: HashSet::new(), waiting: HashMap::new(), open: 0 };
        // A worker for each processor, and one more for each that waits for a server.
        let mut wanted = std::thread::available_parallelism().map_or(1, usize::from);
        let mut workers = 0;
        let interactive = io.interactive();
        dealer.deal(members);
        while dealer.open > 0 {
            while workers < jobs.min(wanted).min(dealer.open) {
                let (work, to_dealer) = (&work, to_dealer.clone());
                scope.spawn(move || worker(setup, work, &to_dealer, interactive));
                workers += 1;
            }
            match events.recv().expect("this thread holds a sender") {
                Event::Begun(name) => progress.begun(&name, io),
                Event::Waits => wanted += 1,
                Event::Done(key, name, worked) => {
                    progress.done(&name, worked.len(), worked.iter().any(|(_, result)| result.is_err()), io);
                    let mut found = Vec::new();
                    for (number, mut result) in worked {
                        for part in parts(&mut result) {
                            let member = Member { number: nodes.len(), what: What::Part(Box::new(part.clone())) };
                            nodes[number].parts.push((part.submodule, member.number));
                            nodes.push(Node { result: None, parts: Vec::new() });
                            found.push(member);
                        }
                        nodes[number].result = Some(result);
                    }
                    progress.more(found.len());
                    dealer.done(key, found);
                }
            }
        }
        // Ends the workers, which wait for more.
        drop(dealer);
    });
    progress.end(io);
    assemble::all(nodes, entries.len())
}

/// Takes the submodules off a staged tree.
fn parts(result: &mut Result<Progress, Fault>) -> Vec<crate::place::Part> {
    match result {
        Ok(Progress::Staged { staged, .. }) => std::mem::take(&mut staged.submodules),
        _ => Vec::new(),
    }
}

struct Dealer<'s, 'a> {
    setup: &'s Setup<'s>,
    to_workers: Sender<Group<'a>>,
    /// Sources that are being worked on.
    busy: HashSet<String>,
    /// What was found for those meanwhile.
    waiting: HashMap<String, Vec<Member<'a>>>,
    /// Groups that were dealt out and are not done.
    open: usize,
}

impl<'a> Dealer<'_, 'a> {
    fn deal(&mut self, members: Vec<Member<'a>>) {
        let mut groups: Vec<Group<'a>> = Vec::new();
        let mut by_key: HashMap<String, usize> = HashMap::new();
        for member in members {
            let key = member.key(self.setup.manifest);
            if let Some(key) = &key {
                if self.busy.contains(key) {
                    self.waiting.entry(key.clone()).or_default().push(member);
                    continue;
                }
                if let Some(&group) = by_key.get(key) {
                    groups[group].members.push(member);
                    continue;
                }
                by_key.insert(key.clone(), groups.len());
            }
            groups.push(Group { key, members: vec![member] });
        }
        for group in groups {
            self.busy.extend(group.key.clone());
            self.open += 1;
            // The receiver lives as long as the scope.
            let _ = self.to_workers.send(group);
        }
    }

    /// Notes that a source is done, and deals out what was found.
    fn done(&mut self, key: Option<String>, mut found: Vec<Member<'a>>) {
        self.open -= 1;
        if let Some(key) = key {
            self.busy.remove(&key);
            found.extend(self.waiting.remove(&key).unwrap_or_default());
        }
        self.deal(found);
    }
}

fn worker<'a>(setup: &Setup<'_>, work: &Mutex<Receiver<Group<'a>>>, to_dealer: &Sender<Event>, interactive: bool) {
    let waited = Cell::new(false);
    // The receiver stays until all senders are gone.
    let say = |event| drop(to_dealer.send(event));
    let waits = || {
        if !waited.replace(true) {
            say(Event::Waits);
        }
    };
    loop {
        let Ok(group) = work.lock().unwrap_or_else(PoisonError::into_inner).recv() else { return };
        let name = group.members[0].name().to_owned();
        if interactive {
            say(Event::Begun(name.clone()));
        }
        let worked = batch::run(setup, &group.members, &waits);
        say(Event::Done(group.key, name, worked));
    }
}
