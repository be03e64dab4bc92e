//! The part of `lossWins`, where everybody has a model of its own.

use bistro_tests::{
    league::{League, Player},
    runs::small,
    text::Text,
};

use super::{HONEST, knobs};

/// Plays honest miners alone, with everybody who is watched, and with the keys of one operator; gives the tables.
pub fn table(text: &Text, windows: u64) -> String {
    let with = |others: &[Player]| play(text, [&[Player::Honest; HONEST], others].concat(), windows);
    let (alone, watched, row) = (with(&[]), with(&Player::WATCHED), with(&Player::ROW));
    watched.print();
    let together: f64 = row.shares[HONEST..].iter().sum::<f64>() / row.honest();
    println!("BENCH simulate mechanism=lossWins kind=row keys={} share={together:.4}", Player::ROW.len());
    let mut out = watched.table(&alone, windows);
    out += &format!(
        "\nSix keys of one operator, each with a little better a model than the one before, beside eight honest miners: together \
         {together:.3} of an honest share.\n"
    );
    out
}

/// Shares where there is no common base.
struct Shares {
    players: Vec<Player>,
    /// Mean share of all weights, by uid.
    shares: Vec<f64>,
    led: Vec<(u64, u64)>,
    loss: f64,
}

fn play(text: &Text, players: Vec<Player>, windows: u64) -> Shares {
    let mut run = small(knobs("lossWins", 1));
    // The margin falls to its floor within ten windows: farmers have something to wait for.
    let mechanism = serde_json::json!({ "lossWins": { "testPages": 16, "decayBlocks": 400 } });
    run.mechanism = serde_json::from_value(mechanism).expect("sound settings");
    let mut league = League::new(text, run, &players);
    for _ in 0..windows {
        league.play();
    }
    let loss = league.loss();
    Shares { shares: league.shares(), led: league.led().to_vec(), players, loss }
}

impl Shares {
    /// Of an honest miner, who has this share of the weights on average.
    fn honest(&self) -> f64 {
        let honest = || self.players.iter().zip(&self.shares).filter(|(player, _)| **player == Player::Honest);
        honest().map(|(_, share)| share).sum::<f64>() / honest().count().max(1) as f64
    }

    /// Windows that somebody led without being paid.
    fn unpaid(&self) -> u64 {
        self.led.iter().map(|(_, unpaid)| unpaid).sum()
    }

    fn print(&self) {
        for (uid, (player, share)) in self.players.iter().zip(&self.shares).enumerate() {
            let (led, unpaid) = self.led[uid];
            println!(
                "BENCH simulate mechanism=lossWins kind={}-{uid} share={:.4} of_all={share:.4} led={led} unpaid={unpaid}",
                player.name(),
                share / self.honest(),
            );
        }
        println!("BENCH simulate-end mechanism=lossWins unpaid={} loss={:.3}", self.unpaid(), self.loss);
    }

    fn table(&self, alone: &Self, windows: u64) -> String {
        let mut out = format!(
            "`lossWins`: mean share of all weights over {windows} windows, and over that of an honest miner (eight, {:.3} each). \
             Windows that somebody led: {}, without being paid: {}. Loss of the best model {:.3}, with honest miners alone {:.3} \
             nats per byte.\n\n| | share | over an honest miner's | windows led |\n|---|---|---|---|\n",
            self.honest(),
            self.led.iter().map(|(led, _)| led).sum::<u64>(),
            self.unpaid(),
            self.loss,
            alone.loss,
        );
        for (uid, player) in self.players.iter().enumerate() {
            let (share, name) = (self.shares[uid], player.name());
            out += &format!("| {name} ({uid}) | {share:.4} | {:.3} | {} |\n", share / self.honest(), self.led[uid].0);
        }
        out
    }
}
