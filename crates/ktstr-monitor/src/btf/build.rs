//! A small BTF writer for tests.

/// Types and strings in the making.
#[derive(Debug)]
pub(crate) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    next: u32,
    first_string: u32,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            next: 1,
            first_string: 0,
        }
    }

    pub(crate) fn on_top_of(base: &super::Btf) -> Self {
        let strings = u32::from_le_bytes(base.bytes()[20..24].try_into().unwrap());
        Self {
            types: Vec::new(),
            strings: Vec::new(),
            next: base.end_id(),
            first_string: strings,
        }
    }

    pub(crate) fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.strings.len()).unwrap() + self.first_string;
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// Adds a type; kind is the BTF number.
    pub(crate) fn add(
        &mut self,
        name: &str,
        (kind, flag, vlen): (u32, bool, u32),
        size_or_type: u32,
        body: &[u32],
    ) -> u32 {
        let name = self.string(name);
        let info = (kind << 24) | (u32::from(flag) << 31) | vlen;
        for word in [name, info, size_or_type].iter().chain(body) {
            self.types.extend(word.to_le_bytes());
        }
        self.next += 1;
        self.next - 1
    }

    pub(crate) fn int(&mut self, name: &str, size: u32, signed: bool) -> u32 {
        self.add(
            name,
            (1, false, 0),
            size,
            &[(u32::from(signed) << 24) | (size * 8)],
        )
    }

    pub(crate) fn ptr(&mut self, target: u32) -> u32 {
        self.add("", (2, false, 0), target, &[])
    }

    pub(crate) fn array(&mut self, element: u32, count: u32) -> u32 {
        self.add("", (3, false, 0), 0, &[element, 1, count])
    }

    pub(crate) fn alias(&mut self, name: &str, target: u32) -> u32 {
        self.add(name, (8, false, 0), target, &[])
    }

    /// Members: name, type, bit offset, bit width (0: no bit field).
    pub(crate) fn structure(
        &mut self,
        name: &str,
        size: u32,
        members: &[(&str, u32, u32, u32)],
    ) -> u32 {
        let flag = members.iter().any(|member| member.3 != 0);
        let mut body = Vec::new();
        for &(name, ty, offset, bits) in members {
            let name = self.string(name);
            body.extend([name, ty, if flag { (bits << 24) | offset } else { offset }]);
        }
        let count = u32::try_from(members.len()).unwrap();
        self.add(name, (4, flag, count), size, &body)
    }

    pub(crate) fn enumeration(&mut self, name: &str, values: &[(&str, u32)]) -> u32 {
        let mut body = Vec::new();
        for &(name, value) in values {
            let name = self.string(name);
            body.extend([name, value]);
        }
        let count = u32::try_from(values.len()).unwrap();
        self.add(name, (6, false, count), 4, &body)
    }

    pub(crate) fn enumeration64(&mut self, name: &str, values: &[(&str, u64)]) -> u32 {
        let mut body = Vec::new();
        for &(name, value) in values {
            let name = self.string(name);
            let low = u32::try_from(value & 0xffff_ffff).unwrap();
            body.extend([name, low, u32::try_from(value >> 32).unwrap()]);
        }
        let count = u32::try_from(values.len()).unwrap();
        self.add(name, (19, false, count), 8, &body)
    }

    /// As a writer of 7.1 and later has it: fixed bytes and bytes per part for each kind, from 0 on.
    pub(crate) fn finish_with_layout(self, layout: &[(u8, u8)]) -> Vec<u8> {
        let len = |part: usize| u32::try_from(part).unwrap();
        let types = len(self.types.len());
        let layout: Vec<u8> = layout
            .iter()
            .flat_map(|&(fixed, each)| [fixed, each, 0, 0])
            .collect();
        let mut blob = vec![0x9f, 0xeb, 1, 0];
        let strings = types + len(layout.len());
        for word in [
            32,
            0,
            types,
            strings,
            len(self.strings.len()),
            types,
            len(layout.len()),
        ] {
            blob.extend(word.to_le_bytes());
        }
        for part in [self.types, layout, self.strings] {
            blob.extend(part);
        }
        blob
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let len = |part: &[u8]| u32::try_from(part.len()).unwrap();
        let mut blob = vec![0x9f, 0xeb, 1, 0];
        for word in [
            24,
            0,
            len(&self.types),
            len(&self.types),
            len(&self.strings),
        ] {
            blob.extend(word.to_le_bytes());
        }
        blob.extend(self.types);
        blob.extend(self.strings);
        blob
    }
}
