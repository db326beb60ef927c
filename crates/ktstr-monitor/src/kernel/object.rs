//! A typed place in guest memory.

use super::Kernel;
use crate::btf::{Field, Kind, TypeId};
use crate::{Error, Kva, Result, bytes};

/// A struct or union at an address. Nothing is read until a member is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Object<'k> {
    kernel: &'k Kernel,
    ty: TypeId,
    kva: Kva,
}

impl<'k> Object<'k> {
    /// Says that a value of this type lies there.
    #[must_use]
    pub fn new(kernel: &'k Kernel, ty: TypeId, kva: Kva) -> Self {
        Self { kernel, ty, kva }
    }

    /// Where it lies.
    #[must_use]
    pub fn kva(&self) -> Kva {
        self.kva
    }

    /// Its type.
    #[must_use]
    pub fn type_id(&self) -> TypeId {
        self.ty
    }

    /// The kernel it belongs to.
    #[must_use]
    pub fn kernel(&self) -> &'k Kernel {
        self.kernel
    }

    /// A member's place in the type.
    ///
    /// # Errors
    /// [`Error::NoField`].
    pub fn field(&self, path: &'static str) -> Result<Field> {
        self.kernel.field(self.ty, path)
    }

    /// A member's address.
    ///
    /// # Errors
    /// [`Error::NoField`].
    pub fn address_of(&self, path: &'static str) -> Result<Kva> {
        Ok(self.kva.wrapping_add(self.field(path)?.offset))
    }

    /// The first address behind it.
    ///
    /// # Errors
    /// [`Error::NoType`] when its type has no size.
    pub(crate) fn behind(&self) -> Result<Kva> {
        let btf = self.kernel.btf();
        let size = btf.size_of(self.ty).ok_or_else(|| Error::NoType {
            name: format!("{} with a size", btf.type_name(self.ty)),
        })?;
        Ok(self.kva.wrapping_add(size))
    }

    /// A member as a number of at most 8 bytes; a bit field is cut out.
    ///
    /// # Errors
    /// [`Error::NoField`], [`Error::Implausible`] for larger members, or as [`Kernel::read`].
    pub fn uint(&self, path: &'static str) -> Result<u64> {
        let field = self.field(path)?;
        let mut raw = [0; 9];
        let part = raw
            .get_mut(..bytes::size(field.size))
            .ok_or(Error::Implausible {
                what: "size of a number",
                value: field.size,
            })?;
        self.kernel
            .read(self.kva.wrapping_add(field.offset), part)?;
        Ok(field.decode(part))
    }

    /// A member as a signed number.
    ///
    /// # Errors
    /// As [`Object::uint`].
    pub fn int(&self, path: &'static str) -> Result<i64> {
        let field = self.field(path)?;
        let bits = field.bits.map_or(
            u32::try_from(field.size.saturating_mul(8)).unwrap_or(64),
            |span| span.bits,
        );
        Ok(bytes::sign_extend(self.uint(path)?, bits))
    }

    /// A member as a number of 4 bytes; wider ones lose their high half.
    ///
    /// # Errors
    /// As [`Object::uint`].
    pub fn u32(&self, path: &'static str) -> Result<u32> {
        Ok(bytes::low32(self.uint(path)?))
    }

    /// A member as a signed number of 4 bytes; wider ones lose their high half.
    ///
    /// # Errors
    /// As [`Object::uint`].
    pub fn i32(&self, path: &'static str) -> Result<i32> {
        Ok(self.u32(path)?.cast_signed())
    }

    /// A pointer member.
    ///
    /// # Errors
    /// As [`Object::uint`].
    pub fn pointer(&self, path: &'static str) -> Result<Kva> {
        self.uint(path).map(Kva)
    }

    /// What a pointer member points at, with its type; none for null.
    ///
    /// # Errors
    /// As [`Object::uint`].
    pub fn follow(&self, path: &'static str) -> Result<Option<Object<'k>>> {
        let target = self.pointer(path)?;
        if target.is_null() {
            return Ok(None);
        }
        let btf = self.kernel.btf();
        let ty = btf
            .resolve(self.field(path)?.ty)
            .filter(|ty| ty.kind() == Kind::Ptr)
            .and_then(|ty| btf.resolve(ty.target()?))
            .ok_or_else(|| Error::NoType {
                name: format!("behind the pointer {path}"),
            })?;
        Ok(Some(Object::new(self.kernel, ty.id(), target)))
    }

    /// As [`Object::follow`], where null is an error.
    ///
    /// # Errors
    /// [`Error::NotMapped`] for null.
    pub fn follow_some(&self, path: &'static str) -> Result<Object<'k>> {
        self.follow(path)?.ok_or(Error::NotMapped {
            kva: Kva(0),
            why: "the pointer is null",
        })
    }

    /// The CPUs of a `cpumask_var_t` member, which is a pointer with `CONFIG_CPUMASK_OFFSTACK` and the mask itself
    /// without, or of a pointer to a mask; none for null.
    ///
    /// # Errors
    /// As [`Object::uint`].
    pub fn cpus(&self, path: &'static str) -> Result<Vec<u32>> {
        let field = self.field(path)?;
        let place = self.kva.wrapping_add(field.offset);
        let is_pointer = self
            .kernel
            .btf()
            .resolve(field.ty)
            .is_some_and(|ty| ty.kind() == Kind::Ptr);
        let mask = match is_pointer {
            true => Kva(self.kernel.read_u64(place)?),
            false => place,
        };
        if mask.is_null() {
            return Ok(Vec::new());
        }
        self.kernel.cpus_of_mask(mask)
    }

    /// A struct member.
    ///
    /// # Errors
    /// [`Error::NoField`].
    pub fn member(&self, path: &'static str) -> Result<Object<'k>> {
        let field = self.field(path)?;
        Ok(Object::new(
            self.kernel,
            field.ty,
            self.kva.wrapping_add(field.offset),
        ))
    }

    /// A character array as text.
    ///
    /// # Errors
    /// As [`Object::bytes`].
    pub fn text(&self, path: &'static str) -> Result<String> {
        Ok(bytes::text(&self.bytes(path)?))
    }

    /// A `char *` member's text, at most `limit` bytes; none for null.
    ///
    /// # Errors
    /// As [`Object::uint`] and [`Kernel::read_text`].
    pub fn text_behind(&self, path: &'static str, limit: usize) -> Result<Option<String>> {
        let pointer = self.pointer(path)?;
        if pointer.is_null() {
            return Ok(None);
        }
        self.kernel.read_text(pointer, limit).map(Some)
    }

    /// A member's bytes, up to 64 KiB.
    ///
    /// # Errors
    /// [`Error::NoField`], [`Error::Implausible`] for larger members, or as [`Kernel::read`].
    pub fn bytes(&self, path: &'static str) -> Result<Vec<u8>> {
        let field = self.field(path)?;
        self.kernel
            .read_bytes(self.kva.wrapping_add(field.offset), field.size, 64 << 10)
    }

    /// Overwrites a number member of 1, 2, 4 or 8 bytes.
    ///
    /// # Errors
    /// [`Error::NoField`], [`Error::Unsupported`] for bit fields and other sizes, or as [`Kernel::write`].
    pub fn write_uint(&self, path: &'static str, value: u64) -> Result<()> {
        let field = self.field(path)?;
        write_number(self.kernel, self.kva, &field, path, value)
    }
}

/// Writes `value` into a field of the struct at `base`.
pub(crate) fn write_number(
    kernel: &Kernel,
    base: Kva,
    field: &Field,
    name: &str,
    value: u64,
) -> Result<()> {
    let refuse = |why: &str| Error::Unsupported {
        what: format!("{name} for writing"),
        why: why.to_owned(),
    };
    if field.bits.is_some() {
        return Err(refuse("it is a bit field"));
    }
    if !matches!(field.size, 1 | 2 | 4 | 8) {
        return Err(refuse("it is not a number of 1, 2, 4 or 8 bytes"));
    }
    let bits = field.size * 8;
    let upper = value
        .checked_shr(u32::try_from(bits).unwrap_or(64))
        .unwrap_or(0);
    let is_negative =
        bytes::sign_extend(value, u32::try_from(bits).unwrap_or(64)).cast_unsigned() == value;
    if upper != 0 && !is_negative {
        return Err(refuse("the value does not fit"));
    }
    let raw = value.to_le_bytes();
    let part = raw.get(..bytes::size(field.size)).unwrap_or_default();
    kernel.write(base.wrapping_add(field.offset), part)
}

/// What a kernel lacks is `None`, what cannot be read stays an error.
pub trait Optional<T> {
    /// Turns [`Error::is_absence`] into `None`.
    ///
    /// # Errors
    /// All others.
    fn optional(self) -> Result<Option<T>>;
}

impl<T> Optional<T> for Result<T> {
    fn optional(self) -> Result<Option<T>> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_absence() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
