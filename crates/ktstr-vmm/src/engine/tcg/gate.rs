//! The host's end of the gate: the stream to the plugin, and the mailbox that the guest shares.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ktstr_plugin::gate::{Alone, Cause, REGISTERS, Release, STORES, Stop as Told, WATCHES};
use ktstr_wire::gate::{
    ANSWERED_AT, IN_AT, MAILBOX_HALF, MAILBOX_LEN, MAILBOX_MAGIC, MAILBOX_VERSION, MORE_AT, OUT_AT,
    SAID_AT, UNTIL_AT, UntilState, VERSION_AT, WAITS_AT,
};

use super::memfd;
use crate::error::{Error, Result};
use crate::exit::VcpuRegs;
use crate::gate::{RunOnly, Stop, StopCause};
use crate::watch::{Watch, WatchHit, WatchId, WatchKind};

/// What QEMU inherits of a gate.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) plugin: UnixStream,
    pub(super) mailbox: File,
}

impl Ends {
    pub(super) fn fds(&self) -> [RawFd; 2] {
        [self.plugin.as_raw_fd(), self.mailbox.as_raw_fd()]
    }
}

/// One guest's gate.
#[derive(Debug)]
pub(in crate::engine) struct Gate {
    plugin: UnixStream,
    /// The memory that guest and host share, and where the mailbox begins in it.
    mailbox: File,
    mailbox_at: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stop: Option<Told>,
    /// Where a copy stands still from its start on, until it is asked for.
    first: Option<Stop>,
    watches: Vec<(WatchId, Watch)>,
    last_watch: u32,
    /// What did not fit into the mailbox.
    rest: Vec<u8>,
    wake_ns: u64,
    /// What the next release says of the vCPUs.
    alone: Alone,
}

impl Gate {
    /// A gate, and the emulator's ends of it.
    pub(super) fn new() -> Result<(Self, Ends)> {
        let (plugin, theirs) = UnixStream::pair().map_err(Error::system("create a socket pair"))?;
        let mailbox = memfd("ktstr-mailbox")?;
        let prepare = || -> io::Result<File> {
            mailbox.set_len(MAILBOX_LEN as u64)?;
            mailbox.write_all_at(&MAILBOX_MAGIC.to_le_bytes(), 0)?;
            mailbox.write_all_at(&MAILBOX_VERSION.to_le_bytes(), VERSION_AT as u64)?;
            mailbox.try_clone()
        };
        let ends = Ends {
            plugin: theirs,
            mailbox: prepare().map_err(Error::system("prepare the gate's mailbox"))?,
        };
        let gate = Self {
            plugin,
            mailbox,
            mailbox_at: 0,
            state: Mutex::default(),
        };
        Ok((gate, ends))
    }

    /// The gate of a copy: it stands still where the guest was saved, and its mailbox lies at `at` of the emulator's memory.
    pub(super) fn stand_at(&mut self, told: Told, said: Vec<u8>, space: File, at: u64) {
        self.mailbox = space;
        self.mailbox_at = at;
        let mut state = self.lock();
        state.first = Some(Stop {
            at: Duration::from_nanos(told.time_ns),
            cause: StopCause::Knock(said),
        });
        state.stop = Some(told);
    }

    /// Lets the guest go as far as a stop of the emulator needs, which must follow; one that knocked reads `answer`. Gives the
    /// virtual time at which it stops.
    pub(super) fn release_to_stop(&self, answer: &[u8]) -> Result<Duration> {
        let told = self.take_stop("stop the emulator")?;
        let stopping = |release| Release {
            stops: true,
            ..release
        };
        self.answer(&told, answer)?;
        self.release(u64::MAX, stopping)?;
        if told.cause != Cause::Idle {
            return Ok(Duration::from_nanos(told.time_ns));
        }
        // It stands still once more, before the first block that is executed.
        let again = Told::read(&mut &self.plugin).map_err(Error::system("hear of the gate"))?;
        self.release(u64::MAX, stopping)?;
        Ok(Duration::from_nanos(again.time_ns))
    }

    fn take_stop(&self, what: &str) -> Result<Told> {
        self.lock().stop.take().ok_or_else(|| Error::Refused {
            what: what.to_owned(),
            reason: String::from("it does not stand still at its gate"),
        })
    }

    /// Lets the guest go as far as a save needs. Gives where it stands.
    pub(super) fn release_to_save(&self) -> Result<Told> {
        let refuse = |reason: &str| Error::Refused {
            what: String::from("save the guest"),
            reason: reason.to_owned(),
        };
        let told = {
            let mut state = self.lock();
            match &state.stop {
                Some(told) if told.cause == Cause::Knock => {}
                _ => return Err(refuse("it is not stopped at a knock that it made")),
            }
            if !state.watches.is_empty() || !state.rest.is_empty() {
                return Err(refuse("it is watched, or has not fetched its last answer"));
            }
            state.stop.take()
        };
        let told = told.ok_or_else(|| refuse("it goes on"))?;
        let release = Release {
            wake_ns: u64::MAX,
            stops: true,
            alone: Alone::AsBefore,
            watches: [0; WATCHES],
            stores: [[0; 2]; STORES],
        };
        release
            .write(&mut &self.plugin)
            .map_err(Error::system("let the guest go on to be saved"))?;
        Ok(told)
    }

    /// Waits until the guest stands still; `None` once the emulator has ended.
    pub(super) fn next_stop(&self) -> Result<Option<Stop>> {
        if let Some(first) = self.lock().first.take() {
            return Ok(Some(first));
        }
        loop {
            let told = match Told::read(&mut &self.plugin) {
                Ok(told) => told,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(Error::system("hear of the gate")(error)),
            };
            let at = Duration::from_nanos(told.time_ns);
            let cause = match told.cause {
                Cause::Timer | Cause::Idle => StopCause::Timer,
                Cause::Mark => StopCause::Mark,
                Cause::Watch => StopCause::Watch(self.lock().hit(&told, WatchKind::Exec)),
                Cause::Store => StopCause::Watch(self.lock().hit(&told, WatchKind::Write)),
                Cause::Knock => {
                    let said = match self.said() {
                        Err(error) if has_gone(&error) => return Ok(None),
                        said => said.map_err(Error::system("read the mailbox"))?,
                    };
                    let rest = std::mem::take(&mut self.lock().rest);
                    if said.is_empty() && !rest.is_empty() {
                        // The guest fetches what did not fit.
                        let wake_ns = self.lock().wake_ns;
                        self.answer(&told, &rest)?;
                        self.release(wake_ns, |release| release)?;
                        continue;
                    }
                    StopCause::Knock(said)
                }
            };
            self.lock().stop = Some(told);
            return Ok(Some(Stop { at, cause }));
        }
    }

    /// Lets the guest go on.
    pub(super) fn go_on(&self, answer: &[u8], wake: Option<Duration>) -> Result<()> {
        let told = self.take_stop("let the guest go on")?;
        let wake = wake.map_or(u64::MAX, |wake| {
            u64::try_from(wake.as_nanos()).unwrap_or(u64::MAX)
        });
        self.answer(&told, answer)?;
        // What lies behind would stop the guest where it stands, for ever.
        self.release(wake.max(told.time_ns + 1), |release| release)
    }

    /// Puts `answer` into the mailbox of a guest that knocked. At any other stop the guest may be filling its half: what it counted
    /// there before it knocks is its own.
    fn answer(&self, told: &Told, answer: &[u8]) -> Result<()> {
        if told.cause != Cause::Knock {
            if answer.is_empty() {
                return Ok(());
            }
            return Err(Error::Refused {
                what: String::from("answer the guest"),
                reason: format!("it has not knocked, but stands still for {:?}", told.cause),
            });
        }
        let (now, rest) = answer.split_at(answer.len().min(MAILBOX_HALF));
        let write = || -> io::Result<()> {
            self.mailbox.write_all_at(now, self.at(IN_AT))?;
            self.write_count(ANSWERED_AT, now.len())?;
            self.write_count(MORE_AT, usize::from(!rest.is_empty()))?;
            self.write_count(SAID_AT, 0)
        };
        rest.clone_into(&mut self.lock().rest);
        match write() {
            // The end is seen where the next stop is waited for.
            Err(error) if has_gone(&error) => Ok(()),
            written => written.map_err(Error::system("write to the mailbox")),
        }
    }

    /// Sends a release, which `change` may change.
    fn release(&self, wake_ns: u64, change: impl FnOnce(Release) -> Release) -> Result<()> {
        let mut state = self.lock();
        state.wake_ns = wake_ns;
        let mut watches = [0; WATCHES];
        for (slot, (_, watch)) in watches.iter_mut().zip(state.of_kind(WatchKind::Exec)) {
            *slot = watch.gva;
        }
        let mut stores = [[0; 2]; STORES];
        for (slot, (_, watch)) in stores.iter_mut().zip(state.of_kind(WatchKind::Write)) {
            *slot = [watch.gva, u64::from(watch.len)];
        }
        let alone = std::mem::take(&mut state.alone);
        drop(state);
        let release = change(Release {
            wake_ns,
            stops: false,
            alone,
            watches,
            stores,
        });
        match release.write(&mut &self.plugin) {
            // As above.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => done.map_err(Error::system("let the guest go on")),
        }
    }

    pub(in crate::engine) fn tell_waiting(&self, state: UntilState) -> Result<()> {
        let word = state.word().to_le_bytes();
        match self.mailbox.write_all_at(&word, self.at(UNTIL_AT)) {
            Err(error) if !has_gone(&error) => Err(Error::system("write to the mailbox")(error)),
            _ => Ok(()),
        }
    }

    pub(in crate::engine) fn waits_for(&self) -> Result<u32> {
        let mut word = [0; 4];
        match self.mailbox.read_exact_at(&mut word, self.at(WAITS_AT)) {
            Err(error) if !has_gone(&error) => Err(Error::system("read the mailbox")(error)),
            _ => Ok(u32::from_le_bytes(word)),
        }
    }

    pub(in crate::engine) fn run_only(&self, who: RunOnly) {
        self.lock().alone = match who {
            RunOnly::All => Alone::All,
            RunOnly::Vcpu(vcpu) => Alone::Only(u64::from(vcpu)),
        };
    }

    /// What the guest has put into the mailbox; a count beyond its half is cut.
    fn said(&self) -> io::Result<Vec<u8>> {
        let mut count = [0; 4];
        self.mailbox.read_exact_at(&mut count, self.at(SAID_AT))?;
        let len = usize::try_from(u32::from_le_bytes(count)).unwrap_or(usize::MAX);
        let mut said = vec![0; len.min(MAILBOX_HALF)];
        self.mailbox.read_exact_at(&mut said, self.at(OUT_AT))?;
        Ok(said)
    }

    fn at(&self, offset: usize) -> u64 {
        self.mailbox_at + offset as u64
    }

    fn write_count(&self, at: usize, count: usize) -> io::Result<()> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.mailbox.write_all_at(&count.to_le_bytes(), self.at(at))
    }

    /// Ends all waiting: the plugin ends the emulator.
    pub(super) fn close(&self) {
        // An error means that the other end is closed.
        let _ = self.plugin.shutdown(Shutdown::Both);
    }

    /// The registers of every vCPU, while the guest stands still.
    pub(super) fn registers(&self) -> Option<Vec<VcpuRegs>> {
        let state = self.lock();
        let all = state.stop.as_ref()?.registers.iter();
        Some(
            all.zip(0..)
                .map(|(words, vcpu)| named(words, vcpu))
                .collect(),
        )
    }

    /// From the next `go_on` on.
    pub(super) fn watch(&self, watch: Watch) -> Result<WatchId> {
        let refuse = |reason: &str| {
            Err(Error::Refused {
                what: String::from("set a watch"),
                reason: reason.to_owned(),
            })
        };
        let mut state = self.lock();
        if state.stop.is_none() {
            return refuse(
                "in virtual time a watch is set while the guest stands still at its gate",
            );
        }
        let most = match watch.kind {
            WatchKind::Exec => WATCHES,
            WatchKind::Write => STORES,
        };
        if state.of_kind(watch.kind).count() >= most {
            return refuse("all of the gate's watches of this kind are in use");
        }
        state.last_watch += 1;
        let id = WatchId(state.last_watch);
        state.watches.push((id, watch));
        Ok(id)
    }

    pub(super) fn unwatch(&self, id: WatchId) -> Result<()> {
        let mut state = self.lock();
        let before = state.watches.len();
        state.watches.retain(|(known, _)| *known != id);
        if state.watches.len() < before {
            return Ok(());
        }
        Err(Error::Refused {
            what: String::from("end a watch"),
            reason: String::from("there is no such watch"),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of_kind(&self, kind: WatchKind) -> impl Iterator<Item = &(WatchId, Watch)> {
        self.watches
            .iter()
            .filter(move |(_, watch)| watch.kind == kind)
    }

    fn hit(&self, told: &Told, kind: WatchKind) -> WatchHit {
        let known = self
            .of_kind(kind)
            .find(|(_, watch)| watch.gva == told.address);
        let vcpu = usize::try_from(told.vcpu).unwrap_or(usize::MAX);
        let registers = told.registers.get(vcpu);
        WatchHit {
            id: known.map_or(WatchId(0), |(id, _)| *id),
            vcpu: u32::try_from(told.vcpu).unwrap_or(u32::MAX),
            rip: registers.map_or(0, |[rip, ..]| *rip),
            held: true,
        }
    }
}

/// The emulator's memory reads and takes nothing any more: it has ended, which the stream to the plugin tells next.
fn has_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WriteZero | io::ErrorKind::UnexpectedEof
    )
}

fn named(words: &[u64; REGISTERS], vcpu: u32) -> VcpuRegs {
    let [
        rip,
        rflags,
        cr0,
        cr2,
        cr3,
        cr4,
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        rsp,
        r8_15 @ ..,
    ] = *words;
    VcpuRegs {
        vcpu,
        rip,
        rsp,
        rbp,
        rflags,
        cr0,
        cr2,
        cr3,
        cr4,
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        r8_15,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_and_plugin_know_the_same_knock() {
        assert_eq!(ktstr_plugin::gate::KNOCK, ktstr_wire::gate::KNOCK);
        assert_eq!(ktstr_plugin::gate::MARK, ktstr_wire::gate::MARK);
    }

    #[test]
    fn one_vcpu_goes_on_alone_from_one_release_to_another() {
        let (gate, ends) = Gate::new().unwrap();
        ends.mailbox
            .write_all_at(&9u32.to_le_bytes(), WAITS_AT as u64)
            .unwrap();
        assert_eq!(gate.waits_for().unwrap(), 9);
        gate.tell_waiting(UntilState::Reached).unwrap();
        let mut word = [0; 4];
        ends.mailbox
            .read_exact_at(&mut word, UNTIL_AT as u64)
            .unwrap();
        assert_eq!(u32::from_le_bytes(word), UntilState::Reached.word());
        let orders = [Some(RunOnly::Vcpu(3)), None, Some(RunOnly::All)];
        let expected = [Alone::Only(3), Alone::AsBefore, Alone::All];
        for (order, alone) in orders.into_iter().zip(expected) {
            stop(&ends, Cause::Mark, b"");
            assert_eq!(gate.next_stop().unwrap().unwrap().cause, StopCause::Mark);
            if let Some(order) = order {
                gate.run_only(order);
            }
            gate.go_on(b"", None).unwrap();
            assert_eq!(Release::read(&mut &ends.plugin).unwrap().alone, alone);
        }
    }

    /// Does what the plugin does, with the guest's bytes.
    fn stop(ends: &Ends, cause: Cause, said: &[u8]) {
        ends.mailbox.write_all_at(said, OUT_AT as u64).unwrap();
        let count = u32::try_from(said.len()).unwrap();
        ends.mailbox
            .write_all_at(&count.to_le_bytes(), SAID_AT as u64)
            .unwrap();
        let told = Told {
            cause,
            vcpu: 1,
            time_ns: 500,
            address: match cause {
                Cause::Watch | Cause::Store => 0xffff_8000_0000_1000,
                Cause::Knock | Cause::Timer | Cause::Mark | Cause::Idle => 0,
            },
            registers: vec![[7; REGISTERS]; 2],
        };
        told.write(&mut &ends.plugin).unwrap();
    }

    fn answered(ends: &Ends) -> (Vec<u8>, bool) {
        let word = |at: usize| {
            let mut count = [0; 4];
            ends.mailbox.read_exact_at(&mut count, at as u64).unwrap();
            u32::from_le_bytes(count)
        };
        let mut bytes = vec![0; word(ANSWERED_AT) as usize];
        ends.mailbox
            .read_exact_at(&mut bytes, IN_AT as u64)
            .unwrap();
        (bytes, word(MORE_AT) != 0)
    }

    #[test]
    fn a_knock_brings_the_guests_bytes_and_takes_the_answer() {
        let (gate, ends) = Gate::new().unwrap();
        assert_eq!(gate.registers(), None);
        stop(&ends, Cause::Knock, b"hello");
        let heard = gate.next_stop().unwrap().unwrap();
        assert_eq!(heard.cause, StopCause::Knock(b"hello".to_vec()));
        assert_eq!(gate.registers().unwrap()[1].r8_15, [7; 8]);
        gate.go_on(b"hi", Some(Duration::from_nanos(3))).unwrap();
        assert_eq!(answered(&ends), (b"hi".to_vec(), false));
        let release = Release::read(&mut &ends.plugin).unwrap();
        assert_eq!(
            release.wake_ns, 501,
            "a time that is past is no time to stop at"
        );
        assert!(gate.go_on(b"", None).is_err());
    }

    #[test]
    fn an_idle_guest_is_stopped_at_its_next_block() {
        let (gate, ends) = Gate::new().unwrap();
        stop(&ends, Cause::Idle, b"");
        assert_eq!(gate.next_stop().unwrap().unwrap().cause, StopCause::Timer);
        let again = Told {
            cause: Cause::Timer,
            vcpu: 0,
            time_ns: 700,
            address: 0,
            registers: Vec::new(),
        };
        again.write(&mut &ends.plugin).unwrap();
        let at = gate.release_to_stop(b"").unwrap();
        assert_eq!(at, Duration::from_nanos(700));
        for _ in 0..2 {
            assert!(Release::read(&mut &ends.plugin).unwrap().stops);
        }
        assert!(
            gate.release_to_stop(b"").is_err(),
            "it stands still no more"
        );
    }

    /// Its mailbox lies in the emulator's memory, which goes with the emulator.
    #[test]
    fn a_copy_that_has_ended_stops_no_more() {
        let (mut gate, ends) = Gate::new().unwrap();
        let mut process = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let space = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{}/mem", process.id()))
            .unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        let told = Told {
            cause: Cause::Knock,
            vcpu: 0,
            time_ns: 500,
            address: 0,
            registers: vec![[7; REGISTERS]],
        };
        gate.stand_at(told, b"x".to_vec(), space, 0x1000);
        assert!(gate.next_stop().unwrap().is_some());
        gate.go_on(b"hi", None).unwrap();
        stop(&ends, Cause::Knock, b"y");
        assert!(gate.next_stop().unwrap().is_none());
    }

    #[test]
    fn an_answer_that_does_not_fit_is_fetched() {
        let (gate, ends) = Gate::new().unwrap();
        let long: Vec<u8> = (0..=250).cycle().take(MAILBOX_HALF + 3).collect();
        stop(&ends, Cause::Knock, b"x");
        gate.next_stop().unwrap();
        gate.go_on(&long, None).unwrap();
        let (first, more) = answered(&ends);
        assert!(more);
        stop(&ends, Cause::Knock, b"");
        stop(&ends, Cause::Timer, b"");
        assert_eq!(gate.next_stop().unwrap().unwrap().cause, StopCause::Timer);
        let (second, more) = answered(&ends);
        assert!(!more);
        assert_eq!([first, second].concat(), long);
    }

    /// It has counted what it says, and another vCPU meets a watch before it knocks; its last answer was not fetched yet, either.
    #[test]
    fn a_stop_between_keeps_what_the_guest_says_and_what_it_has_to_fetch() {
        let (gate, ends) = Gate::new().unwrap();
        let long = vec![7; MAILBOX_HALF + 3];
        stop(&ends, Cause::Knock, b"x");
        gate.next_stop().unwrap();
        gate.go_on(&long, None).unwrap();
        for cause in [Cause::Watch, Cause::Timer, Cause::Mark] {
            stop(&ends, cause, b"half said");
            gate.next_stop().unwrap();
            gate.go_on(b"", None).unwrap();
            assert_eq!(gate.said().unwrap(), b"half said", "{cause:?}");
        }
        stop(&ends, Cause::Timer, b"");
        gate.next_stop().unwrap();
        let refused = gate.go_on(b"unheard", None).unwrap_err().to_string();
        assert!(refused.contains("has not knocked"), "{refused}");
        stop(&ends, Cause::Knock, b"");
        stop(&ends, Cause::Timer, b"");
        gate.next_stop().unwrap();
        assert_eq!(answered(&ends), (vec![7; 3], false));
    }

    #[test]
    fn a_count_that_is_a_lie_is_cut() {
        let (gate, ends) = Gate::new().unwrap();
        stop(&ends, Cause::Knock, b"");
        ends.mailbox
            .write_all_at(&u32::MAX.to_le_bytes(), SAID_AT as u64)
            .unwrap();
        let heard = gate.next_stop().unwrap().unwrap();
        let StopCause::Knock(said) = heard.cause else {
            panic!("{heard:?}")
        };
        assert_eq!(said.len(), MAILBOX_HALF);
    }

    #[test]
    fn watches_are_set_while_the_guest_stands() {
        let (gate, ends) = Gate::new().unwrap();
        let watch = Watch {
            gva: 0xffff_8000_0000_1000,
            len: 4,
            kind: WatchKind::Exec,
        };
        assert!(gate.watch(watch).unwrap_err().to_string().contains("gate"));
        stop(&ends, Cause::Knock, b"");
        gate.next_stop().unwrap();
        let write = Watch {
            kind: WatchKind::Write,
            ..watch
        };
        let (id, stored) = (gate.watch(watch).unwrap(), gate.watch(write).unwrap());
        gate.go_on(b"", None).unwrap();
        let release = Release::read(&mut &ends.plugin).unwrap();
        assert_eq!(release.watches[0], watch.gva);
        assert_eq!(release.stores[0], [watch.gva, 4]);
        for (cause, id) in [(Cause::Watch, id), (Cause::Store, stored)] {
            stop(&ends, cause, b"");
            let heard = gate.next_stop().unwrap().unwrap();
            let StopCause::Watch(hit) = heard.cause else {
                panic!("{heard:?}")
            };
            assert_eq!((hit.id, hit.vcpu, hit.rip), (id, 1, 7));
            gate.unwatch(id).unwrap();
            gate.go_on(b"", None).unwrap();
        }
        // One was released in between.
        Release::read(&mut &ends.plugin).unwrap();
        let release = Release::read(&mut &ends.plugin).unwrap();
        assert_eq!(release.watches, [0; WATCHES]);
        assert_eq!(release.stores, [[0; 2]; STORES]);
    }

    #[test]
    fn the_emulators_end_is_the_last_stop() {
        let (gate, ends) = Gate::new().unwrap();
        drop(ends);
        assert_eq!(gate.next_stop().unwrap(), None);
    }
}
