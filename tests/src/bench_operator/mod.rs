//! What an operator costs, beside two others and beside none at all.
//!
//! Each [`Subject`] gets a cluster of its own in turn: a real API server, controller-manager and scheduler without limits
//! of their clients, and machines that are not there, whose pods are ready at once. The same load creates resources and
//! waits until each says that it is ready. Writes are counted from the API server's audit log by user, time, memory and
//! processor time by this side and /proc: nobody has to say anything about itself.

mod drift;
mod figures;
mod ledger;
mod load;
mod measure;
mod program;
mod report;
mod subject;

use std::{collections::BTreeMap, env, str::FromStr, time::Duration};

pub use subject::{Child, Subject};

use figures::Figures;
use measure::Measured;
use report::Report;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Resources.
    pub count: usize,
    /// Namespaces that they are spread over. Kubernetes' own controllers compare all pods of one with each Service and
    /// budget in it, which takes their time from everybody.
    pub namespaces: usize,
    /// How often everything is done; medians are reported.
    pub rounds: usize,
    /// How long an idle operator is watched.
    pub idle: Duration,
    /// Children of each kind that are deleted, and edited.
    pub trials: usize,
    /// Which operators: floor crbase bistro kuberay.
    pub subjects: Vec<String>,
    /// Which measurements besides create and restart: idle drift handover; and `polls`, to let ours ask its pods, as it
    /// does in life.
    pub what: Vec<String>,
}

impl Settings {
    /// `N`, `NAMESPACES`, `ROUNDS`, `IDLE` in seconds, `TRIALS`, `SUBJECTS` and `WHAT`.
    pub fn from_environment() -> Self {
        let words = |name, usual: &str| -> Vec<String> {
            let text = env::var(name).ok().filter(|text| !text.is_empty());
            text.as_deref().unwrap_or(usual).split_whitespace().map(str::to_owned).collect()
        };
        Self {
            count: number("N", 200),
            namespaces: number("NAMESPACES", 1),
            rounds: number("ROUNDS", 1),
            idle: Duration::from_secs(number("IDLE", 60)),
            trials: number("TRIALS", 20),
            subjects: words("SUBJECTS", "floor crbase bistro kuberay"),
            what: words("WHAT", "idle drift handover"),
        }
    }

    fn does(&self, what: &str) -> bool {
        self.what.iter().any(|wanted| wanted == what)
    }
}

fn number<T: FromStr>(name: &str, usual: T) -> T {
    let Some(text) = env::var(name).ok().filter(|text| !text.is_empty()) else { return usual };
    text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}"))
}

/// Measures everybody in turn and prints what came of it.
pub async fn run(settings: &Settings) {
    let all = [subject::floor(), subject::crbase(), subject::bistro(), subject::kuberay()];
    let unknown = settings.subjects.iter().find(|name| all.iter().all(|subject| subject.name != **name));
    assert!(unknown.is_none(), "there is no subject {unknown:?}: floor crbase bistro kuberay");
    let wanted = |subject: &&Subject| settings.subjects.iter().any(|name| name == subject.name);
    let mut of: BTreeMap<&'static str, Figures> = BTreeMap::new();
    for round in 1..=settings.rounds {
        for subject in all.iter().filter(wanted) {
            eprintln!("--- round {round}: {} with {} resources", subject.name, settings.count);
            let figures = of.entry(subject.name).or_default();
            if Measured::all(subject, settings, figures).await.is_none() {
                return;
            }
        }
    }
    Report::new(settings, &of).print();
}
