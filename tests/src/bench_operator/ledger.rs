//! What an operator asked of the API server, by the server's audit log: counted alike for every client, as it is written.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
    time::Instant,
};

use crate::cluster::{Request, audit};

/// Requests of one user from one moment on.
pub struct Ledger {
    log: PathBuf,
    user: &'static str,
    offset: u64,
    tally: Tally,
}

/// Numbers of requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Everything that changes something, without events and leases.
    pub writes: u64,
    /// Events.
    pub events: u64,
    /// Lists, gets and watches that ended, without those of leases.
    pub reads: u64,
    /// Answers 409.
    pub conflicts: u64,
    /// Verb and resource of every write and event, with the code of a failure.
    pub by: BTreeMap<String, u64>,
    /// When the last write or event was noticed.
    pub last: Option<Instant>,
}

impl Ledger {
    /// Counts from now on.
    pub fn from_now(log: PathBuf, user: &'static str) -> Self {
        let offset = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        Self { log, user, offset, tally: Tally::default() }
    }

    /// Everything until now.
    pub fn read(&mut self) -> &Tally {
        let mut file = File::open(&self.log).expect("the API server writes an audit log");
        file.seek(SeekFrom::Start(self.offset)).expect("a file");
        let mut lines = BufReader::with_capacity(1 << 20, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = lines.read_until(b'\n', &mut line).expect("a file that can be read");
            // The last line may be half written.
            if !line.ends_with(b"\n") {
                return &self.tally;
            }
            self.offset += length as u64;
            let (user, request) = audit::entry(&line);
            if user == self.user {
                self.tally.take(request);
            }
        }
    }
}

impl Tally {
    fn take(&mut self, request: Request) {
        let Request { verb, resource, subresource, namespace: _, name: _, code } = request;
        // How an operator keeps its lease is not compared; reviews ask whether somebody else may read its metrics.
        if resource == "leases" || resource.ends_with("reviews") {
            return;
        }
        self.conflicts += u64::from(code == 409);
        if matches!(verb.as_str(), "get" | "list" | "watch") {
            self.reads += 1;
            return;
        }
        self.last = Some(Instant::now());
        if resource == "events" {
            self.events += 1;
        } else {
            self.writes += 1;
        }
        let separator = if subresource.is_empty() { "" } else { "/" };
        let failed = if code < 400 { String::new() } else { format!(" {code}") };
        *self.by.entry(format!("{verb} {resource}{separator}{subresource}{failed}")).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(user: &str, verb: &str, resource: &str, subresource: &str, code: u16) -> String {
        let object = serde_json::json!({ "resource": resource, "subresource": subresource });
        let entry = serde_json::json!({
            "verb": verb, "user": { "username": user }, "objectRef": object, "responseStatus": { "code": code },
        });
        format!("{entry}\n")
    }

    #[test]
    fn writes_of_one_user_are_counted_from_one_moment_on() {
        let mut log = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut write = |text: &str| log.as_file_mut().write_all(text.as_bytes()).expect("a file");
        write(&line("operator", "create", "services", "", 201));
        let path = log.path().to_owned();
        let mut ledger = Ledger::from_now(path, "operator");
        assert_eq!(ledger.read().writes, 0);

        let mut log = std::fs::OpenOptions::new().append(true).open(log.path()).expect("the file");
        let mut write = |text: &str| log.write_all(text.as_bytes()).expect("a file");
        write(&line("operator", "create", "statefulsets", "", 201));
        write(&line("operator", "patch", "miners", "status", 409));
        write(&line("operator", "create", "events", "", 201));
        write(&line("operator", "update", "leases", "", 200));
        write(&line("operator", "create", "tokenreviews", "", 201));
        write(&line("operator", "list", "miners", "", 200));
        write(&line("admin", "create", "miners", "", 201));
        let half = line("operator", "delete", "services", "", 200);
        let (begin, end) = half.split_at(20);
        write(begin);
        let tally = ledger.read();
        assert_eq!((tally.writes, tally.events, tally.reads, tally.conflicts), (2, 1, 1, 1));
        assert_eq!(
            tally.by.keys().collect::<Vec<_>>(),
            ["create events", "create statefulsets", "patch miners/status 409"]
        );

        write(end);
        assert_eq!(ledger.read().writes, 3);
    }
}
