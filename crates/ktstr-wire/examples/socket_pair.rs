//! A "guest" thread sends frames over a socket pair, line noise gets in, and the "host" tells what it saw.
//!
//! `cargo run -p ktstr-wire --example socket_pair`

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;

use ktstr_wire::{
    Assembler, Event, FrameWriter, Lifecycle, Message, SendError, Stage, encode, encode_raw,
};

/// What a small guest says. The clock is made up: a real guest reads CLOCK_MONOTONIC.
fn guest(mut port: UnixStream) -> Result<(), SendError> {
    let mut writer = FrameWriter::new(port.try_clone()?);
    let up = Lifecycle {
        stage: Stage::InitUp,
        detail: String::new(),
    };
    writer.send(&Message::Lifecycle(up), 1_000)?;
    writer.send(&Message::Stdout(b"hello from the guest\n".to_vec()), 2_000)?;
    port.write_all(b"[ 0.1] a kernel message on the wrong port\n")?;
    // A frame of a newer guest, and one that loses its second half.
    writer.send_raw(4711, 0, 3_000, b"what is this?")?;
    let torn = encode_raw(13, 0, 3, 4_000, &[b'x'; 100])?;
    port.write_all(torn.get(..64).unwrap_or_default())?;
    port.write_all(&encode(&Message::Exit(0), 4, 5_000)?)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let (host_end, guest_end) = UnixStream::pair()?;
    let guest = thread::Builder::new()
        .name("guest".into())
        .spawn(move || guest(guest_end))?;

    let mut assembler = Assembler::new();
    let mut port = host_end;
    let mut buffer = [0; 4096];
    loop {
        let len = port.read(&mut buffer)?;
        assembler.push(buffer.get(..len).unwrap_or_default());
        while let Some(event) = assembler.next_event() {
            tell(&event);
        }
        if len == 0 {
            break;
        }
    }
    while let Some(event) = assembler.finish() {
        tell(&event);
    }
    println!("{:?}", assembler.stats());
    guest.join().map_err(|_| "the guest panicked")??;
    Ok(())
}

fn tell(event: &Event) {
    match event {
        Event::Frame(frame) => match frame.decode() {
            Ok(message) => println!("{:>5} ns  #{}  {message:?}", frame.guest_ns, frame.seq),
            Err(error) => println!("{:>5} ns  #{}  {error}", frame.guest_ns, frame.seq),
        },
        Event::Gap { expected, found } => println!("gap: expected #{expected}, found #{found}"),
        Event::Skipped { bytes, why } => println!("skipped {bytes} bytes: {why:?}"),
        other => println!("{other:?}"),
    }
}
