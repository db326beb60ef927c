# Teaches drgn a kernel that has BTF but no DWARF: types from the vmlinux's .BTF section, addresses from its symbols.
#
# Written against Documentation/bpf/btf.rst alone: a referee must not share a parser with what it judges.
import struct

from drgn import Object, Qualifiers, TypeEnumerator, TypeKind, TypeMember

# BTF knows the types of per-CPU variables alone; these are the others that drgn's helpers and ours ask for.
GLOBALS = {
    "__cpu_online_mask": "struct cpumask",
    "__cpu_possible_mask": "struct cpumask",
    "__per_cpu_offset": "unsigned long [8192]",
    "cgrp_dfl_root": "struct cgroup_root",
    "dsq_hash": "struct rhashtable",
    "global_dsqs": "struct scx_dispatch_q **",
    "init_pid_ns": "struct pid_namespace",
    "init_task": "struct task_struct",
    "map_idr": "struct idr",
    "nr_cpu_ids": "unsigned int",
    "nr_node_ids": "unsigned int",
    "prb": "struct printk_ringbuffer *",
    "prog_idr": "struct idr",
    "scx_exit_kind": "atomic_t",
    "scx_sched_all": "struct list_head",
    "scx_watchdog_timeout": "unsigned long",
    "task_state_array": "char *[9]",
}
(INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT,
 DECL_TAG, TYPE_TAG, ENUM64) = range(1, 20)
# Bytes behind a type's head: fixed, and for each of vlen.
BODY = {INT: (4, 0), ARRAY: (12, 0), STRUCT: (0, 12), UNION: (0, 12), ENUM: (0, 8), FUNC_PROTO: (0, 8), VAR: (4, 0),
        DATASEC: (0, 12), DECL_TAG: (4, 0), ENUM64: (0, 12)}
KINDS = {STRUCT: TypeKind.STRUCT, UNION: TypeKind.UNION, ENUM: TypeKind.ENUM, ENUM64: TypeKind.ENUM, INT: TypeKind.INT,
         TYPEDEF: TypeKind.TYPEDEF, FLOAT: TypeKind.FLOAT}


def sections(elf):
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    heads = [struct.unpack_from("<IIQQQQI", elf, table + number * size) for number in range(count)]

    def text(at):
        return elf[at:elf.index(b"\0", at)].decode()

    return {text(heads[names][4] + head[0]): (elf[head[4]:head[4] + head[5]], head[6]) for head in heads}


class Btf:
    def __init__(self, prog, vmlinux, slide):
        with open(vmlinux, "rb") as file:
            parts = sections(file.read())
        self.prog = prog
        self.made = {}
        self.read_types(parts[".BTF"][0])
        self.read_symbols(parts[".symtab"][0], parts[".strtab"][0], slide)
        prog.register_type_finder("btf", self.find_type, enable_index=0)
        prog.register_object_finder("btf", self.find_object, enable_index=0)

    def read_types(self, blob):
        head, types, types_len, strings = struct.unpack_from("<IIII", blob, 4)
        self.blob = blob
        self.strings = head + strings
        self.types = [None]
        self.named = {}
        self.constants = {}
        at, end = head + types, head + types + types_len
        while at < end:
            name, info, size = struct.unpack_from("<III", blob, at)
            kind, vlen, flag = info >> 24 & 0x1f, info & 0xffff, info >> 31
            number = len(self.types)
            self.types.append((kind, self.text(name), size, at + 12, vlen, flag))
            self.named.setdefault((kind, self.text(name)), number)
            fixed, each = BODY.get(kind, (0, 0))
            if kind in (ENUM, ENUM64):
                for place in range(vlen):
                    self.constants.setdefault(self.enumerator(kind, at + 12, place, flag)[0], number)
            at += 12 + fixed + each * vlen

    def read_symbols(self, table, strings, slide):
        self.symbols = {}
        for name, _, _, section, value, _ in struct.iter_unpack("<IBBHQQ", table):
            if name and section:
                text = strings[name:strings.index(b"\0", name)].decode()
                self.symbols.setdefault(text, value + (slide if value >> 32 else 0))

    def text(self, offset):
        at = self.strings + offset
        return self.blob[at:self.blob.index(b"\0", at)].decode()

    def enumerator(self, kind, body, place, signed):
        if kind == ENUM:
            name, value = struct.unpack_from("<Ii" if signed else "<II", self.blob, body + place * 8)
        else:
            name, low, high = struct.unpack_from("<III", self.blob, body + place * 12)
            value = high << 32 | low
            if signed and value >> 63:
                value -= 1 << 64
        return self.text(name), value

    def type(self, number):
        if number not in self.made:
            self.made[number] = self.make(number)
        return self.made[number]

    def make(self, number):
        prog = self.prog
        if number == 0:
            return prog.void_type()
        kind, name, size, body, vlen, flag = self.types[number]
        if kind == INT:
            (word,) = struct.unpack_from("<I", self.blob, body)
            if word >> 24 & 4:
                return prog.bool_type(name, size)
            return prog.int_type(name, size, bool(word >> 24 & 1))
        if kind == FLOAT:
            return prog.float_type(name, size)
        if kind == PTR:
            return prog.pointer_type(self.type(size))
        if kind == ARRAY:
            element, _, count = struct.unpack_from("<III", self.blob, body)
            return prog.array_type(self.type(element), count or None)
        if kind in (STRUCT, UNION):
            make = prog.struct_type if kind == STRUCT else prog.union_type
            return make(name or None, size, [self.member(body + place * 12, flag) for place in range(vlen)])
        if kind in (ENUM, ENUM64):
            base = prog.int_type("int" if flag else "unsigned int", size, bool(flag))
            values = [TypeEnumerator(*self.enumerator(kind, body, place, flag)) for place in range(vlen)]
            return prog.enum_type(name or None, base, values)
        if kind == FWD:
            full = self.named.get((UNION if flag else STRUCT, name))
            if full:
                return self.type(full)
            return (prog.union_type if flag else prog.struct_type)(name, None, None)
        if kind == TYPEDEF:
            return prog.typedef_type(name, self.type(size))
        if kind == FUNC_PROTO:
            return prog.function_type(prog.void_type(), [])
        qualifier = {VOLATILE: Qualifiers.VOLATILE, CONST: Qualifiers.CONST, RESTRICT: Qualifiers.RESTRICT}
        inner = self.type(size)
        return inner.qualified(inner.qualifiers | qualifier[kind]) if kind in qualifier else inner

    def member(self, at, flag):
        name, number, offset = struct.unpack_from("<III", self.blob, at)
        bits, offset = (offset >> 24, offset & 0xffffff) if flag else (0, offset)
        # Members are looked up when asked for: that is what lets types refer to themselves.
        if bits:
            return TypeMember(lambda: Object(self.prog, self.type(number), bit_field_size=bits), self.text(name), offset)
        return TypeMember(lambda: self.type(number), self.text(name) or None, offset)

    def find_type(self, prog, kinds, name, filename):
        for kind, known in KINDS.items():
            if known in kinds and (kind, name) in self.named:
                return self.type(self.named[kind, name])
        return None

    def find_object(self, prog, name, flags, filename):
        if name in self.constants:
            kind, _, _, body, vlen, flag = self.types[self.constants[name]]
            values = dict(self.enumerator(kind, body, place, flag) for place in range(vlen))
            return Object(prog, self.type(self.constants[name]), values[name])
        if name not in self.symbols:
            return None
        if (VAR, name) in self.named:
            kind = self.type(self.types[self.named[VAR, name]][2])
        elif name in GLOBALS:
            kind = prog.type(GLOBALS[name])
        else:
            return None
        return Object(prog, kind, address=self.symbols[name])


def load(prog, vmlinux, vmcoreinfo):
    """Gives `prog` the types and variables of a kernel that KASLR may have moved."""
    offset = [line for line in vmcoreinfo.decode().splitlines() if line.startswith("KERNELOFFSET=")]
    return Btf(prog, vmlinux, int(offset[0].partition("=")[2], 16) if offset else 0)
