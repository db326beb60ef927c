//! `struct bpf_prog`: names, and what the verifier and the run-time statistics counted.

use serde::{Deserialize, Serialize};

use crate::btf::{Kind, TypeId};
use crate::{Error, Kernel, Kva, Object, Problems, Result, Walk, bytes};

/// More programs than a machine under test has.
const MAX_PROGRAMS: usize = 8192;
/// Most functions that a program can have (`BPF_MAX_SUBPROGS` in kernel/bpf/verifier.c).
const MAX_FUNCTIONS: u64 = 256;
/// `MAX_USED_MAPS`.
const MAX_USED_MAPS: u64 = 64;
/// Programs whose statistics are sampled: a scheduler has forty operations.
const MAX_SAMPLED: usize = 128;

/// A loaded program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BpfProgram {
    /// Its id.
    pub id: u32,
    /// Its type as bpftool calls it (`struct_ops`, `tracing`, …).
    #[serde(rename = "type")]
    pub prog_type: String,
    /// Its function's name, in full where its BTF knows it.
    pub name: String,
    /// Hash of its instructions, hex.
    pub tag: String,
    /// Instructions that the verifier looked at.
    pub verified_insns: Option<u32>,
    /// Bytes of machine code.
    pub jited_len: Option<u32>,
    /// Ids of the maps it uses.
    pub map_ids: Vec<u32>,
    /// Runs since load, with `kernel.bpf_stats_enabled`.
    pub run_cnt: Option<u64>,
    /// Time of those runs, nanoseconds.
    pub run_time_ns: Option<u64>,
    /// Runs refused because of recursion.
    pub recursion_misses: Option<u64>,
    /// What it printed to its standard output stream (6.17 and later).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// The same of standard error, where the kernel reports the program's faults.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stderr: String,
}

/// What loading a program cost the verifier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgVerifierStats {
    /// The program.
    pub name: String,
    /// Instructions that the verifier looked at.
    pub verified_insns: u32,
}

impl Kernel {
    /// All programs, by id.
    #[must_use]
    pub fn programs(&self) -> Walk<Vec<BpfProgram>> {
        let mut problems = Problems::new();
        let entries = self.symbol("prog_idr").and_then(|idr| {
            self.walk_idr("the program registry", idr, MAX_PROGRAMS, &mut problems)
        });
        let found = problems
            .keep("the program registry", entries)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(id, kva)| {
                let program = self
                    .object("bpf_prog", kva)
                    .and_then(|prog| self.program(&prog, &mut problems));
                problems.need(&format!("program {id}"), program)
            })
            .collect();
        Walk { found, problems }
    }

    /// The verifier's counts for the `struct_ops` programs, or for all.
    #[must_use]
    pub fn verifier_stats(&self, only_struct_ops: bool) -> Walk<Vec<ProgVerifierStats>> {
        let Walk { found, problems } = self.programs();
        let found = found
            .into_iter()
            .filter(|program| !only_struct_ops || program.prog_type == "struct_ops")
            .filter_map(|program| {
                Some(ProgVerifierStats {
                    name: program.name,
                    verified_insns: program.verified_insns?,
                })
            })
            .collect();
        Walk { found, problems }
    }

    /// Names of the `struct_ops` programs, and each CPU's `struct bpf_prog_stats` of theirs.
    pub(crate) fn struct_ops_stats(&self) -> Result<Vec<(String, Vec<Kva>)>> {
        let idr = self.symbol("prog_idr")?;
        let entries = self.walk_idr(
            "the program registry",
            idr,
            MAX_PROGRAMS,
            &mut Problems::new(),
        )?;
        let cpus = self.possible_cpus()?;
        let mut found = Vec::new();
        for (_, kva) in entries {
            let prog = self.object("bpf_prog", kva)?;
            let kind = self.lower_name("bpf_prog_type", "BPF_PROG_TYPE_", prog.uint("type")?);
            let stats = prog.pointer("stats")?;
            if kind != "struct_ops" || stats.is_null() || found.len() == MAX_SAMPLED {
                continue;
            }
            let aux = prog.follow_some("aux")?;
            let short = aux.text("name")?;
            let places = cpus
                .iter()
                .map(|&cpu| self.per_cpu(stats, cpu))
                .collect::<Result<_>>()?;
            found.push((self.full_name(&aux).unwrap_or(short), places));
        }
        Ok(found)
    }

    fn program(&self, prog: &Object<'_>, problems: &mut Problems) -> Result<BpfProgram> {
        let aux = prog.follow_some("aux")?;
        let short = aux.text("name")?;
        let name = self.full_name(&aux).unwrap_or(short);
        let stats = problems.keep("program statistics", self.run_stats(prog));
        // Runs and their time are counted on request only; recursion is, always.
        let counted = stats.filter(|_| self.counts_bpf_stats());
        let run_cnt = counted.map(|[runs, ..]| runs);
        let run_time_ns = counted.map(|[_, time, _]| time);
        let recursion_misses = stats.map(|[.., misses]| misses);
        let [stdout, stderr] = BpfProgram::read_streams(self, &aux, problems);
        Ok(BpfProgram {
            stdout,
            stderr,
            id: aux.u32("id")?,
            prog_type: self.lower_name("bpf_prog_type", "BPF_PROG_TYPE_", prog.uint("type")?),
            name,
            tag: bytes::hex(&prog.bytes("tag")?),
            verified_insns: problems.keep("verified_insns", aux.u32("verified_insns")),
            jited_len: problems.keep("jited_len", self.jited_len(prog, &aux)),
            map_ids: problems
                .keep("used maps", self.used_maps(&aux))
                .unwrap_or_default(),
            run_cnt,
            run_time_ns,
            recursion_misses,
        })
    }

    /// Of all its functions, where it has several (`bpf_prog_get_info_by_fd` in kernel/bpf/syscall.c).
    fn jited_len(&self, prog: &Object<'_>, aux: &Object<'_>) -> Result<u32> {
        let count = aux.uint("func_cnt")?;
        if count == 0 {
            return prog.u32("jited_len");
        }
        if count > MAX_FUNCTIONS {
            return Err(Error::Implausible {
                what: "number of functions of a program",
                value: count,
            });
        }
        let table = aux.pointer("func")?;
        (0..count).try_fold(0_u32, |sum, number| {
            let function = Kva(self.read_u64(table.wrapping_add(number * 8))?);
            let len = self.object("bpf_prog", function)?.u32("jited_len")?;
            Ok(sum.wrapping_add(len))
        })
    }

    /// The name of the function in the program's own BTF; `aux->name` is cut at 15 bytes.
    fn full_name(&self, aux: &Object<'_>) -> Option<String> {
        let btf = self.btf_at(aux.follow("btf").ok()??.kva()).ok()?;
        let infos = aux.pointer("func_info").ok()?;
        let index = aux.uint("func_idx").ok()?;
        if infos.is_null() || index >= aux.uint("func_info_cnt").ok()? {
            return None;
        }
        // struct bpf_func_info { __u32 insn_off; __u32 type_id; }
        let ty = self.read_u32(infos.wrapping_add(index * 8 + 4)).ok()?;
        let function = btf.ty(TypeId(ty)).filter(|ty| ty.kind() == Kind::Func)?;
        Some(function.name().to_owned())
    }

    fn used_maps(&self, aux: &Object<'_>) -> Result<Vec<u32>> {
        let count = aux.uint("used_map_cnt")?;
        if count > MAX_USED_MAPS {
            return Err(Error::Implausible {
                what: "number of maps that a program uses",
                value: count,
            });
        }
        let table = aux.pointer("used_maps")?;
        (0..count)
            .map(|number| {
                let map = Kva(self.read_u64(table.wrapping_add(number * 8))?);
                self.object("bpf_map", map)?.u32("id")
            })
            .collect()
    }

    /// Runs, nanoseconds and misses, summed over CPUs.
    fn run_stats(&self, prog: &Object<'_>) -> Result<[u64; 3]> {
        let pointer = prog.pointer("stats")?;
        let mut sums = [0_u64; 3];
        if pointer.is_null() {
            return Ok(sums);
        }
        for cpu in self.possible_cpus()? {
            let stats = self.object("bpf_prog_stats", self.per_cpu(pointer, cpu)?)?;
            for (sum, path) in sums.iter_mut().zip(["cnt", "nsecs", "misses"]) {
                *sum = sum.wrapping_add(stats.uint(path)?);
            }
        }
        Ok(sums)
    }
}
