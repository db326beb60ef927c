//! A kernel that was found in memory: addresses, types and typed reads.

mod describe;
mod list;
mod object;
mod percpu;
mod problems;
mod radix;

pub(crate) use object::write_number;
pub use object::{Object, Optional};
pub use problems::{Problem, Problems};

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use crate::btf::{Btf, Field, TypeId};
use crate::locate::{self, ImageSpan, Known, Located, Slide};
use crate::paging::{AddressSpace, PagingMode, TranslationCache};
use crate::symbols::{START_KERNEL_MAP, Symbols};
use crate::{Error, Gpa, Kva, PhysMem, Result, bytes};

/// A Linux kernel in physical memory. Cheap to share behind an [`Arc`]; reads may come from many threads.
#[derive(Debug)]
pub struct Kernel {
    memory: Arc<dyn PhysMem>,
    translations: TranslationCache,
    image: ImageSpan,
    text: Kva,
    slide: Slide,
    build_id: Option<Vec<u8>>,
    direct_map: DirectMap,
    symbols: Symbols,
    btf: Arc<Btf>,
    fields: RwLock<HashMap<(TypeId, &'static str), Option<Field>>>,
    /// By address and id of the `struct btf`.
    pub(crate) program_btfs: RwLock<HashMap<(Kva, u32), Arc<Btf>>>,
}

/// The kernel's linear map of all memory.
#[derive(Debug, Clone, Copy)]
struct DirectMap {
    base: u64,
    len: u64,
}

/// How to find a kernel; what is not told is found out.
#[derive(Debug, Clone)]
pub struct Attach {
    memory: Arc<dyn PhysMem>,
    cr3: u64,
    vmlinux: Option<PathBuf>,
    btf_cache: Option<PathBuf>,
}

impl Attach {
    /// Looks in this memory.
    #[must_use]
    pub fn new(memory: Arc<dyn PhysMem>) -> Self {
        Self {
            memory,
            cr3: 0,
            vmlinux: None,
            btf_cache: None,
        }
    }

    /// One vCPU's CR3. Without it, memory is searched.
    #[must_use]
    pub fn cr3(mut self, cr3: u64) -> Self {
        self.cr3 = cr3;
        self
    }

    /// The kernel's ELF image; refused when its build id is another.
    #[must_use]
    pub fn vmlinux(mut self, path: impl Into<PathBuf>) -> Self {
        self.vmlinux = Some(path.into());
        self
    }

    /// A directory that keeps indexed BTF by build id.
    #[must_use]
    pub fn btf_cache(mut self, dir: impl Into<PathBuf>) -> Self {
        self.btf_cache = Some(dir.into());
        self
    }

    /// Finds the kernel.
    ///
    /// # Errors
    /// [`Error::NoKernel`] with what was missing, [`Error::WrongVmlinux`] when the vmlinux is of another build.
    pub fn attach(self) -> Result<Kernel> {
        let located = locate::locate(
            &*self.memory,
            Known {
                cr3: self.cr3,
                vmlinux: self.vmlinux.as_deref(),
                btf_cache: self.btf_cache.as_deref(),
            },
        )?;
        Ok(Kernel::from_located(self.memory, located))
    }
}

impl Kernel {
    /// A kernel whose place, symbols and types are known already.
    #[must_use]
    pub fn from_located(memory: Arc<dyn PhysMem>, located: Located) -> Self {
        let end = memory.ranges().last().map_or(0, |range| range.end().0);
        let mut kernel = Self {
            memory,
            translations: TranslationCache::new(located.space),
            image: located.image,
            text: located.text,
            slide: located.slide,
            build_id: located.build_id,
            direct_map: DirectMap { base: 0, len: 0 },
            symbols: located.symbols,
            btf: Arc::new(located.btf),
            fields: RwLock::default(),
            program_btfs: RwLock::default(),
        };
        kernel.direct_map = DirectMap {
            base: kernel.find_direct_map(located.space.mode),
            len: end,
        };
        kernel
    }

    /// Finds the kernel in `memory`; `cr3` 0 means unknown.
    ///
    /// # Errors
    /// As [`Attach::attach`].
    pub fn attach(memory: Arc<dyn PhysMem>, cr3: u64, vmlinux: Option<&Path>) -> Result<Self> {
        let mut attach = Attach::new(memory).cr3(cr3);
        attach.vmlinux = vmlinux.map(Path::to_owned);
        attach.attach()
    }

    /// `page_offset_base` where the kernel has one (`CONFIG_DYNAMIC_MEMORY_LAYOUT`), else the fixed place
    /// (`arch/x86/include/asm/page_64_types.h`).
    fn find_direct_map(&self, mode: PagingMode) -> u64 {
        let fixed = match mode {
            PagingMode::X86FourLevel => 0xffff_8880_0000_0000,
            PagingMode::X86FiveLevel => 0xff11_0000_0000_0000,
        };
        self.symbol("page_offset_base")
            .and_then(|kva| self.read_u64(kva))
            .ok()
            .filter(|base| base % (1 << 30) == 0 && *base >= 1 << 63)
            .unwrap_or(fixed)
    }

    /// The memory it lies in.
    #[must_use]
    pub fn memory(&self) -> &Arc<dyn PhysMem> {
        &self.memory
    }

    /// Its page tables.
    #[must_use]
    pub fn address_space(&self) -> AddressSpace {
        self.translations.space()
    }

    /// Its types.
    #[must_use]
    pub fn btf(&self) -> &Arc<Btf> {
        &self.btf
    }

    /// Its symbols.
    #[must_use]
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// Run-time address of `_text`.
    #[must_use]
    pub fn text(&self) -> Kva {
        self.text
    }

    /// How far KASLR moved it.
    #[must_use]
    pub fn slide(&self) -> Slide {
        self.slide
    }

    /// Where its image lies.
    #[must_use]
    pub fn image(&self) -> ImageSpan {
        self.image
    }

    /// `phys_base`: what is added to an image address's distance from `__START_KERNEL_map`.
    #[must_use]
    pub fn phys_base(&self) -> u64 {
        self.image
            .gpa
            .0
            .wrapping_sub(self.image.kva.0.wrapping_sub(START_KERNEL_MAP))
    }

    /// First address of the linear map of all memory.
    #[must_use]
    pub fn page_offset(&self) -> Kva {
        Kva(self.direct_map.base)
    }

    /// Its build id, where the notes were found.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// The run-time address of a symbol, or a per-CPU symbol's offset.
    ///
    /// # Errors
    /// [`Error::NoSymbol`].
    pub fn symbol(&self, name: &str) -> Result<Kva> {
        self.symbols
            .find(name)
            .map(Kva)
            .ok_or_else(|| Error::NoSymbol {
                name: name.to_owned(),
            })
    }

    /// The same of a function that the compiler may have put a suffix to: `finish_task_switch.isra.0`. Not a part of it that is seldom
    /// executed (`.cold`).
    ///
    /// # Errors
    /// [`Error::NoSymbol`].
    pub fn function(&self, name: &str) -> Result<Kva> {
        let exact = self.symbol(name);
        if exact.is_ok() {
            return exact;
        }
        let is_it = |found: &str| {
            let suffix = found
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('.'));
            suffix.is_some_and(|suffix| !suffix.split('.').any(|part| part == "cold"))
        };
        let mut all = self.symbols.iter();
        let found = all.find(|(_, found, _)| is_it(found));
        found.map_or(exact, |(_, _, at)| Ok(Kva(at)))
    }

    /// Physical address of a kernel address, and how many bytes from there on are contiguous.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn translate(&self, kva: Kva) -> Result<(Gpa, u64)> {
        if let Some(offset) = kva.0.checked_sub(self.image.kva.0)
            && offset < self.image.len
        {
            return Ok((
                Gpa(self.image.gpa.0.wrapping_add(offset)),
                self.image.len - offset,
            ));
        }
        if let Some(offset) = kva.0.checked_sub(self.direct_map.base)
            && offset < self.direct_map.len
        {
            return Ok((Gpa(offset), self.direct_map.len - offset));
        }
        self.translations.translate(&*self.memory, kva)
    }

    /// Copies memory at a kernel address.
    ///
    /// # Errors
    /// [`Error::NotMapped`] or [`Error::NoMemory`] with the first address that is missing.
    pub fn read(&self, kva: Kva, buffer: &mut [u8]) -> Result<()> {
        self.spans(kva, buffer.len(), |memory, gpa, span| {
            memory.read(gpa, buffer.get_mut(span).unwrap_or_default())
        })
    }

    /// Writes memory at a kernel address. The caller answers for what the running kernel makes of it.
    ///
    /// # Errors
    /// As [`Kernel::read`], and [`Error::ReadOnly`].
    pub fn write(&self, kva: Kva, data: &[u8]) -> Result<()> {
        self.spans(kva, data.len(), |memory, gpa, span| {
            memory.write(gpa, data.get(span).unwrap_or_default())
        })
    }

    fn spans(
        &self,
        kva: Kva,
        len: usize,
        mut copy: impl FnMut(&dyn PhysMem, Gpa, std::ops::Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < len {
            let here = kva.checked_add(done as u64).ok_or(Error::NotMapped {
                kva,
                why: "the range wraps",
            })?;
            let (gpa, run) = self.translate(here)?;
            let size = (len - done).min(bytes::size(run));
            copy(&*self.memory, gpa, done..done + size)?;
            done += size;
        }
        Ok(())
    }

    /// Reads 4 bytes, whole when aligned.
    ///
    /// # Errors
    /// As [`Kernel::read`].
    pub fn read_u32(&self, kva: Kva) -> Result<u32> {
        let mut raw = [0; 4];
        self.read(kva, &mut raw)?;
        Ok(u32::from_le_bytes(raw))
    }

    /// Reads 8 bytes, whole when aligned.
    ///
    /// # Errors
    /// As [`Kernel::read`].
    pub fn read_u64(&self, kva: Kva) -> Result<u64> {
        let mut raw = [0; 8];
        self.read(kva, &mut raw)?;
        Ok(u64::from_le_bytes(raw))
    }

    /// Reads `len` bytes at an address that the guest gave; more than `limit` is refused.
    ///
    /// # Errors
    /// As [`Kernel::read`], and [`Error::Implausible`] above the limit.
    pub fn read_bytes(&self, kva: Kva, len: u64, limit: usize) -> Result<Vec<u8>> {
        if len > limit as u64 {
            return Err(Error::Implausible {
                what: "length",
                value: len,
            });
        }
        let mut buffer = vec![0; bytes::size(len)];
        self.read(kva, &mut buffer)?;
        Ok(buffer)
    }

    /// Reads a NUL-terminated text, at most `limit` bytes of it.
    ///
    /// # Errors
    /// As [`Kernel::read`], when not even the first byte can be read.
    pub fn read_text(&self, kva: Kva, limit: usize) -> Result<String> {
        let mut text = Vec::new();
        while text.len() < limit {
            let at = kva.wrapping_add(text.len() as u64);
            // Up to the page's end: what lies behind may not be mapped.
            let room = 4096 - bytes::size(at.0 % 4096);
            let mut part = vec![0; room.min(limit - text.len())];
            match self.read(at, &mut part) {
                Ok(()) => {}
                Err(error) if text.is_empty() => return Err(error),
                Err(_) => break,
            }
            text.extend_from_slice(&part);
            if memchr::memchr(0, &part).is_some() {
                break;
            }
        }
        Ok(bytes::text(&text))
    }

    /// The number in a global variable, by its size in BTF or `size` where BTF does not know it.
    ///
    /// # Errors
    /// [`Error::NoSymbol`], or as [`Kernel::read`].
    pub fn global(&self, name: &str, size: usize) -> Result<u64> {
        let mut raw = [0; 8];
        let kva = self.symbol(name)?;
        let part = raw.get_mut(..size).ok_or(Error::Implausible {
            what: "size of a number",
            value: size as u64,
        })?;
        self.read(kva, part)?;
        Ok(bytes::uint(&raw))
    }

    /// The kernel's VMCOREINFO, lines of `KEY=value`: what makes a dump readable for crash and drgn.
    ///
    /// # Errors
    /// [`Error::NoSymbol`] without `CONFIG_VMCORE_INFO`, or as [`Kernel::read`].
    pub fn vmcoreinfo(&self) -> Result<String> {
        let data = Kva(self.global("vmcoreinfo_data", 8)?);
        self.read_text(data, 4096)
    }

    /// The id of a struct or union.
    ///
    /// # Errors
    /// [`Error::NoType`].
    pub fn type_id(&self, name: &str) -> Result<TypeId> {
        self.btf
            .find_struct(name)
            .map(|ty| ty.id())
            .ok_or_else(|| Error::NoType {
                name: format!("struct {name}"),
            })
    }

    /// A member of a type, by dotted path. Looked up once, then remembered.
    ///
    /// # Errors
    /// [`Error::NoField`].
    pub fn field(&self, ty: TypeId, path: &'static str) -> Result<Field> {
        let known = self
            .fields
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(ty, path))
            .copied();
        let field = known.unwrap_or_else(|| {
            let found = self.btf.member(ty, path);
            self.fields
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert((ty, path), found);
            found
        });
        field.ok_or_else(|| Error::NoField {
            ty: self.btf.type_name(ty),
            path: path.to_owned(),
        })
    }

    /// A member of a named struct.
    ///
    /// # Errors
    /// [`Error::NoType`] or [`Error::NoField`].
    pub fn field_of(&self, name: &str, path: &'static str) -> Result<Field> {
        self.field(self.type_id(name)?, path)
    }

    /// The struct at an address.
    ///
    /// # Errors
    /// [`Error::NoType`].
    pub fn object(&self, name: &str, kva: Kva) -> Result<Object<'_>> {
        Ok(Object::new(self, self.type_id(name)?, kva))
    }

    /// The struct around a member: `container_of`.
    ///
    /// # Errors
    /// [`Error::NoType`] or [`Error::NoField`].
    pub fn container_of(&self, member: Kva, name: &str, path: &'static str) -> Result<Object<'_>> {
        let ty = self.type_id(name)?;
        let offset = self.field(ty, path)?.offset;
        Ok(Object::new(self, ty, member.wrapping_sub(offset)))
    }
}
