//! Per-CPU variables and CPU masks.

use super::Kernel;
use crate::{Error, Kva, Result, bytes};

/// `CONFIG_NR_CPUS` of the largest configurations.
const MAX_CPUS: u32 = 8192;

impl Kernel {
    /// How many CPU numbers this kernel uses: `nr_cpu_ids`, which `CONFIG_FORCE_NR_CPUS` makes a constant. The masks
    /// then have a bit for each.
    #[must_use]
    pub fn nr_cpu_ids(&self) -> u32 {
        let stated = match self.global("nr_cpu_ids", 4) {
            Ok(stated) => bytes::low32(stated),
            Err(_) => self.field_of("cpumask", "bits").map_or(1, |bits| {
                u32::try_from(bits.size.saturating_mul(8)).unwrap_or(MAX_CPUS)
            }),
        };
        stated.clamp(1, MAX_CPUS)
    }

    /// The CPUs of a mask that every kernel with more than one has.
    fn mask(&self, symbol: &str) -> Result<Vec<u32>> {
        match self.symbol(symbol) {
            Ok(kva) => self.cpus_of_mask(kva),
            // Without CONFIG_SMP there are no masks.
            Err(_) if self.symbol("__per_cpu_offset").is_err() => Ok(vec![0]),
            Err(error) => Err(error),
        }
    }

    /// The CPUs of a `struct cpumask`.
    pub(crate) fn cpus_of_mask(&self, mask: Kva) -> Result<Vec<u32>> {
        let all = self.nr_cpu_ids();
        let mut raw = vec![0; all.div_ceil(64) as usize * 8];
        self.read(mask, &mut raw)?;
        Ok(bits(&raw).into_iter().filter(|&cpu| cpu < all).collect())
    }

    /// CPUs that may ever be there (`cpu_possible_mask`).
    ///
    /// # Errors
    /// When the mask cannot be read.
    pub fn possible_cpus(&self) -> Result<Vec<u32>> {
        self.mask("__cpu_possible_mask")
    }

    /// CPUs that run (`cpu_online_mask`).
    ///
    /// # Errors
    /// When the mask cannot be read.
    pub fn online_cpus(&self) -> Result<Vec<u32>> {
        self.mask("__cpu_online_mask")
    }

    /// What is added to a per-CPU address for this CPU; 0 on a kernel without SMP.
    ///
    /// # Errors
    /// [`Error::Implausible`] before the kernel has set its areas up, or as [`Kernel::read`].
    pub fn per_cpu_offset(&self, cpu: u32) -> Result<u64> {
        let Ok(table) = self.symbol("__per_cpu_offset") else {
            return Ok(0);
        };
        if cpu >= MAX_CPUS {
            return Err(Error::Implausible {
                what: "CPU number",
                value: cpu.into(),
            });
        }
        match self.read_u64(table.wrapping_add(u64::from(cpu) * 8))? {
            0 => Err(Error::Implausible {
                what: "per-CPU offset (areas are not set up yet)",
                value: 0,
            }),
            offset => Ok(offset),
        }
    }

    /// One CPU's copy of a per-CPU variable, by the address that the kernel's pointers to it hold.
    ///
    /// # Errors
    /// As [`Kernel::per_cpu_offset`].
    pub fn per_cpu(&self, pointer: Kva, cpu: u32) -> Result<Kva> {
        Ok(pointer.wrapping_add(self.per_cpu_offset(cpu)?))
    }

    /// One CPU's copy of a per-CPU variable, by name.
    ///
    /// # Errors
    /// [`Error::NoSymbol`], or as [`Kernel::per_cpu_offset`].
    pub fn per_cpu_symbol(&self, name: &str, cpu: u32) -> Result<Kva> {
        self.per_cpu(self.symbol(name)?, cpu)
    }
}

/// Numbers of the bits that are set.
fn bits(raw: &[u8]) -> Vec<u32> {
    (0_u32..)
        .zip(raw)
        .flat_map(|(number, &byte)| {
            (0..8)
                .filter(move |bit| byte >> bit & 1 != 0)
                .map(move |bit| number * 8 + bit)
        })
        .collect()
}
