//! What a synchronisation would bring: found by the same steps as the real one, up to the first byte of a package.

use std::sync::Mutex;

use serde::Serialize;
use toolkit::Io;

use crate::error::{Error, Result};

/// One thing that would come.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Planned {
    pub(crate) source: String,
    pub(crate) what: What,
    /// Path below the source's address, name in its directory, or repository.
    pub(crate) path: String,
    /// Length, where it is known.
    pub(crate) size: Option<u64>,
}

/// How it would come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum What {
    /// A download.
    Fetch,
    /// A copy out of a directory.
    Take,
    /// A repository whose refs have moved.
    Update,
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    v: u32,
    #[serde(flatten)]
    planned: &'a Planned,
}

/// A plan while it is made, by several threads.
#[derive(Debug, Default)]
pub(crate) struct Plan(Mutex<Vec<Planned>>);

impl Plan {
    pub(crate) fn add(&self, planned: Planned) {
        self.0.lock().expect("no thread panics while it adds").push(planned);
    }

    /// Prints the plan, a line for each thing.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub(super) fn print(&self, json: bool, io: &mut Io) -> Result<()> {
        let mut all = self.0.lock().expect("no thread panics while it adds");
        all.sort();
        for planned in all.iter() {
            if json {
                io.json(&Line { r#type: "planned", v: 1, planned }).map_err(Error::Output)?;
                continue;
            }
            let verb = match planned.what {
                What::Fetch => "fetch",
                What::Take => "take",
                What::Update => "update",
            };
            let size = planned.size.map_or_else(|| "-".to_owned(), |size| size.to_string());
            io.out(format!("{verb} {} {size} {}\n", planned.source, planned.path)).map_err(Error::Output)?;
        }
        let bytes: u64 = all.iter().filter_map(|planned| planned.size).sum();
        io.note(format_args!("{} to bring, {bytes} bytes of known size; nothing was changed", all.len()));
        Ok(())
    }
}
