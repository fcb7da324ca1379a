//! Networks and disks that are bad, and nodes that are well: nobody moves.

use diskstream_wire::Nanos;

use super::{Bounds, Cast, DONE, Scenario, UNDISTURBED, lossy};
use crate::faults::Fault;
use crate::figures::Figures;
use crate::options::{LinkFaults, Options, Workload};

/// See the table's texts.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "quiet_60s",
        story: "nothing happens for a minute",
        must: "no move, no hedge to speak of, no read waits longer than 100 ms",
        play: quiet_60s,
    },
    Scenario {
        name: "lossy_60s",
        story: "a minute of 5 % loss and 20 ms jitter each way",
        must: "no move, at most 2 % of reads hedged, no read waits longer than 2 s",
        play: lossy_60s,
    },
    Scenario {
        name: "very_lossy",
        story: "half a minute of 12 % loss and 20 ms jitter each way, of reads of up to 16 KiB",
        must: "no move, at most 2 % of reads hedged: the budget holds where it is wanted most",
        play: very_lossy,
    },
    Scenario {
        name: "slow_store",
        story: "every node's store of one vDisk answers after 2 s, for 30 s; another vDisk's does not",
        must: "no move; devices of the other vDisk are not slowed",
        play: slow_store,
    },
    Scenario {
        name: "hung_store",
        story: "every node's store of one vDisk does not answer at all for 30 s; another vDisk's does",
        must: "devices of the other vDisk are not slowed, and those of the hung one go on when it comes back",
        play: hung_store,
    },
    Scenario {
        name: "in_order",
        story: "devices read in the order of the image, from cold nodes that know a third of it from earlier boots",
        must: "no move; blocks are there before they are asked for, none is read twice, and few are read in vain",
        play: in_order,
    },
];

fn quiet_60s(cast: Cast) -> Figures {
    let mut world = cast.warm(Options::default());
    world.run_for(Nanos::from_secs(60));
    world.finish(DONE);
    let (serving, standbys) = world.roles();
    let devices = world.devices.len() as u64;
    assert_eq!(serving, devices, "judge of accounts: each device has one session that serves it");
    assert_eq!(standbys, devices, "judge of accounts: and one standby");
    UNDISTURBED.judge(&world)
}

fn lossy_60s(cast: Cast) -> Figures {
    let mut world = cast.warm(lossy());
    world.run_for(Nanos::from_secs(60));
    world.finish(DONE);
    Bounds { stall_ms: 2_000.0, ..UNDISTURBED }.judge(&world)
}

fn very_lossy(cast: Cast) -> Figures {
    let options = lossy();
    let link = LinkFaults { loss_ppm: 120_000, ..options.link };
    let workload = Workload::Open { every: Nanos::from_millis(200), units_max: 4 };
    let mut world = cast.warm(Options { link, workload, ..options });
    world.run_for(Nanos::from_secs(30));
    world.finish(Nanos::from_secs(20));
    // Ten reads earn a tenth of a hedge, and four may be saved up: 2 % of the 150 reads of each device, and those.
    Bounds { stall_ms: 20_000.0, hedged_ppm: 40_000, ..UNDISTURBED }.judge(&world)
}

fn slow_store(cast: Cast) -> Figures {
    // A small cache, so that most reads need the disk; but with a frame for each block that the slow vDisk may wait for (half of
    // the 64 of each shard), or the other one would find none.
    let options = Options { vdisks: 2, image_bytes: 8 << 20, frames: 120, ..Options::default() };
    let mut world = cast.warm(options);
    let slow = cast.draw().index(2);
    for node in 0..2 {
        world.befall(Fault::Stuck { node, stuck: Some((slow, Nanos::from_secs(2))) });
    }
    world.run_for(Nanos::from_secs(30));
    for node in 0..2 {
        world.befall(Fault::Stuck { node, stuck: None });
    }
    let other = world.devices.iter().skip(1 - slow).step_by(2).map(|d| d.stalls.longest);
    let other = other.fold(Nanos::ZERO, Nanos::max);
    assert!(
        other < Nanos::from_millis(100),
        "judge of stories: a device of the other vDisk waited for {} ms",
        other.as_millis()
    );
    world.run_for(Nanos::from_secs(5));
    world.finish(Nanos::from_secs(20));
    let slowest = world.figures().stall_ms_max;
    assert!(slowest > 1_900.0, "judge of stories: no read needed the slow store: {slowest} ms");
    // Two seconds for a block and fewer frames than the image has blocks: reads wait for each other.
    Bounds { stall_ms: 30_000.0, ..UNDISTURBED }.judge(&world)
}

fn hung_store(cast: Cast) -> Figures {
    let options = Options { vdisks: 2, image_bytes: 8 << 20, frames: 120, ..Options::default() };
    let mut world = cast.warm(options);
    let hung = cast.draw().index(2);
    for node in 0..2 {
        // Longer than the disk's deadline: a read that is under way when the story is over ends with the world.
        world.befall(Fault::Stuck { node, stuck: Some((hung, Nanos::from_secs(30))) });
    }
    // Until just before the deadline: no error yet, only silence.
    world.run_for(Nanos::from_secs(9));
    for node in 0..2 {
        world.befall(Fault::Stuck { node, stuck: None });
    }
    let other = world.devices.iter().skip(1 - hung).step_by(2).map(|d| d.stalls.longest);
    let other = other.fold(Nanos::ZERO, Nanos::max);
    assert!(
        other < Nanos::from_millis(100),
        "judge of stories: a device of the other vDisk waited for {} ms",
        other.as_millis()
    );
    world.figures()
}

fn in_order(cast: Cast) -> Figures {
    let workload = Workload::Open { every: Nanos::from_millis(20), units_max: 16 };
    let base = Options { workload, in_order: true, warm: true, ..Options::default() };
    // Room for the whole image, so that nothing is read again.
    let options = Options { devices: 8, image_bytes: 12 << 20, frames: 256, ..base };
    let mut world = cast.warm(options);
    world.run_for(Nanos::from_secs(10));
    world.finish(DONE);
    let [reads, early, used] = world.loads();
    let blocks = 2 * 12 * 16;
    assert!(reads <= blocks, "judge of loads: {reads} reads of {blocks} blocks on two nodes");
    assert!(early > blocks / 3, "judge of loads: only {early} of {blocks} blocks were early");
    assert!(used * 4 >= early * 3, "judge of loads: {used} of {early} early blocks were of use");
    UNDISTURBED.judge(&world)
}
