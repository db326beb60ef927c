//! The text of `info registers -a`, parsed (QEMU target/i386/cpu-dump.c).

use crate::exit::VcpuRegs;

/// One entry per `CPU#n` section. A register that the text lacks stays 0.
pub(super) fn parse(text: &str) -> Vec<VcpuRegs> {
    let mut all: Vec<VcpuRegs> = Vec::new();
    for line in text.lines() {
        if let Some(number) = line.trim().strip_prefix("CPU#") {
            let vcpu = number.trim().parse().unwrap_or(0);
            all.push(VcpuRegs {
                vcpu,
                ..VcpuRegs::default()
            });
            continue;
        }
        let Some(regs) = all.last_mut() else { continue };
        // "R8 =00… R9 =00…" and "RAX=00… RBX=00…": names may be padded before the sign.
        let line = line.replace(" =", "=");
        for word in line.split_whitespace() {
            if let Some((name, value)) = word.split_once('=')
                && let Ok(value) = u64::from_str_radix(value, 16)
            {
                assign(regs, name, value);
            }
        }
    }
    all
}

fn assign(regs: &mut VcpuRegs, name: &str, value: u64) {
    let place = match name {
        "RIP" => &mut regs.rip,
        "RSP" => &mut regs.rsp,
        "RBP" => &mut regs.rbp,
        "RFL" => &mut regs.rflags,
        "CR0" => &mut regs.cr0,
        "CR2" => &mut regs.cr2,
        "CR3" => &mut regs.cr3,
        "CR4" => &mut regs.cr4,
        "RAX" => &mut regs.rax,
        "RBX" => &mut regs.rbx,
        "RCX" => &mut regs.rcx,
        "RDX" => &mut regs.rdx,
        "RSI" => &mut regs.rsi,
        "RDI" => &mut regs.rdi,
        _ => {
            let numbered = name
                .strip_prefix('R')
                .and_then(|number| number.parse::<usize>().ok());
            let Some(place) =
                numbered.and_then(|number| regs.r8_15.get_mut(number.checked_sub(8)?))
            else {
                return;
            };
            place
        }
    };
    *place = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\nCPU#0\nRAX=0000000000000001 RBX=ffffffff82a0f0c0 RCX=0 RDX=4\n\
        R8 =0000000000000008 R9 =0000000000000009 R10=00000000000000aa R11=0\n\
        RIP=ffffffff81e8b1cb RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\n\
        CR0=80050033 CR2=0 CR3=0000000002a12000 CR4=003506f0\n\nCPU#1\nRIP=10 RSP=20\n";

    #[test]
    fn every_cpu_has_its_own_registers() {
        let regs = parse(TEXT);
        assert_eq!(regs.len(), 2);
        assert_eq!(
            (regs[0].rip, regs[0].rflags, regs[0].cr3),
            (0xffff_ffff_81e8_b1cb, 0x246, 0x2a1_2000)
        );
        assert_eq!((regs[0].r8_15[0], regs[0].r8_15[2]), (8, 0xaa));
        assert_eq!((regs[1].vcpu, regs[1].rip, regs[1].rsp), (1, 0x10, 0x20));
    }
}
