//! A guest's shape as its own programs tell it: sysfs, lscpu, hwloc's lstopo and scx_utils' Topology (what most sched_ext
//! schedulers use), each compared with the declared one. The same on either engine.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ktstr_initramfs::Builder;
use ktstr_vmm::Topology;

/// Every CPU must be online. Few processes: each costs an emulated guest milliseconds.
pub(crate) const SCRIPT: &str = "cd /sys/devices/system/cpu; for c in cpu[0-9]*; do t=$c/topology\n\
    read p <$t/physical_package_id; read k <$t/core_id\n\
    for n in $c/node*; do :; done\n\
    echo \"sysfs-cpu ${c#cpu} $p $k ${n##*node}\" $($bb cat $t/thread_siblings_list $t/package_cpus_list)\n\
    for i in $c/cache/index*; do read l <$i/level; read y <$i/type; read d <$i/id; read h <$i/shared_cpu_list\n\
    echo \"sysfs-cache ${c#cpu} $l $y $d $h\"; done; done\n\
    cd ../node; for n in node[0-9]*; do c=$($bb cat $n/cpulist); read d <$n/distance; echo \"sysfs-node ${n#node} [$c] $d\"; done\n\
    export LC_ALL=C; /bin/lscpu -p=CPU,CORE,SOCKET,NODE,CACHE | $bb sed -n 's/^[0-9]/lscpu-cpu &/p'\n\
    /bin/lscpu -C=NAME,ONE-SIZE,ALL-SIZE --bytes | $bb sed -n 's/^L/lscpu-cache L/p'\n\
    /bin/lscpu --json | $bb tr -d '\\n' | $bb sed 's/\"field\"/\\n&/g' | \
    $bb sed -n 's/.*\"field\": *\"\\([^\"]*\\):\", *\"data\": *\"\\([^\"]*\\)\".*/lscpu-field \\1 = \\2/p'; echo\n\
    /bin/lstopo --filter all:all --of xml - | \
    $bb sed -n 's/.*<object type=\"\\([^\"]*\\)\".* cpuset=\"\\([^\"]*\\)\" complete_cpuset.*/lstopo \\1 \\2/p'\n\
    /bin/scx-topology\n";

/// Puts the programs that [`SCRIPT`] runs into a guest.
#[track_caller]
pub(crate) fn programs(builder: &mut Builder) {
    let on_path = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
            .unwrap_or_else(|| {
                panic!("{name} is missing; `cargo xtask setup --checks` installs it")
            })
    };
    // Beside what cargo builds, wherever that is; the lab carries it on its PATH.
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().nth(3);
    let built = target.map(|target| target.join("tools/scx-topology/scx-topology"));
    let topology = built
        .filter(|built| built.is_file())
        .unwrap_or_else(|| on_path("scx-topology"));
    let programs: [(&str, PathBuf); 3] = [
        ("lscpu", on_path("lscpu")),
        ("lstopo", on_path("lstopo-no-graphics")),
        ("scx-topology", topology),
    ];
    for (name, host) in programs {
        builder.binary(&format!("/bin/{name}"), &host).unwrap();
    }
}

/// Which CPUs are together.
type Groups = BTreeSet<BTreeSet<u32>>;

/// `0-3,8` as numbers.
pub(crate) fn list(text: &str) -> BTreeSet<u32> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .flat_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse::<u32>().unwrap()..=last.parse::<u32>().unwrap()
        })
        .collect()
}

/// hwloc's `0x00000001,0xffffffff`, the highest word first; empty words are zero.
fn mask(text: &str) -> BTreeSet<u32> {
    (0u32..)
        .zip(text.rsplit(','))
        .flat_map(|(word, hex)| {
            let hex = hex.trim_start_matches("0x");
            let bits = if hex.is_empty() {
                0
            } else {
                u64::from_str_radix(hex, 16).unwrap()
            };
            (0..32)
                .filter(move |bit| bits >> bit & 1 == 1)
                .map(move |bit| word * 32 + bit)
        })
        .collect()
}

/// Console lines that begin with `mark`, their other words.
pub(crate) fn words<'c>(
    console: &'c str,
    mark: &'c str,
) -> impl Iterator<Item = Vec<&'c str>> + 'c {
    console.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(mark)).then(|| words.collect())
    })
}

/// The CPUs of a shape, grouped by what `of` says of each.
fn groups<K: Ord>(topology: &Topology, of: impl Fn(u32) -> K) -> Groups {
    let mut groups = std::collections::BTreeMap::<K, BTreeSet<u32>>::new();
    for cpu in 0..topology.total_cpus() {
        groups.entry(of(cpu)).or_default().insert(cpu);
    }
    groups.into_values().collect()
}

/// What was declared.
struct Declared {
    cores: Groups,
    llcs: Groups,
    /// By node, a node without CPUs too.
    nodes: Vec<BTreeSet<u32>>,
    distances: Vec<Vec<u8>>,
    name: String,
}

impl Declared {
    fn new(name: &str, topology: &Topology) -> Self {
        let place = |cpu| topology.place(cpu).unwrap();
        let nodes = (0..topology.nodes().len()).map(|node| {
            (0..topology.total_cpus())
                .filter(|cpu| place(*cpu).node as usize == node)
                .collect()
        });
        Self {
            cores: groups(topology, |cpu| (place(cpu).llc, place(cpu).core)),
            llcs: groups(topology, |cpu| place(cpu).llc),
            nodes: nodes.collect(),
            distances: (0..topology.nodes().len())
                .map(|from| {
                    (0..topology.nodes().len())
                        .filter_map(|to| topology.distance().between(from, to))
                        .collect()
                })
                .collect(),
            name: name.to_owned(),
        }
    }

    /// The CPUs that share a cache of that level.
    fn sharers(&self, level: &str) -> &Groups {
        if level == "3" {
            &self.llcs
        } else {
            &self.cores
        }
    }

    /// `found` gives each CPU its group's number.
    #[track_caller]
    fn same(&self, what: &str, found: &[(u32, String)], expected: &Groups) {
        let mut groups = std::collections::BTreeMap::<&str, BTreeSet<u32>>::new();
        for (cpu, group) in found {
            groups.entry(group).or_default().insert(*cpu);
        }
        let found: Groups = groups.into_values().collect();
        assert_eq!(&found, expected, "{}: {what}", self.name);
    }
}

/// Compares all that [`SCRIPT`] said with the shape.
#[track_caller]
pub(crate) fn check(name: &str, topology: &Topology, console: &str) {
    check_with(name, topology, console, |own, _| own.clone());
}

/// The same with what lstopo shall take for the CPUs of a node's memory: given the node's own and those of node 0.
#[track_caller]
pub(crate) fn check_with(
    name: &str,
    topology: &Topology,
    console: &str,
    of_memory: impl Fn(&BTreeSet<u32>, &BTreeSet<u32>) -> BTreeSet<u32>,
) {
    let console = console.replace('\r', "");
    let declared = Declared::new(name, topology);
    check_sysfs(&declared, topology, &console);
    check_lscpu(&declared, &console);
    let first = declared.nodes.first().cloned().unwrap_or_default();
    let own = declared.nodes.iter().filter(|cpus| !cpus.is_empty());
    let memory: Vec<BTreeSet<u32>> = own.map(|own| of_memory(own, &first)).collect();
    check_lstopo(&declared, &memory, &console);
    check_scx(&declared, &console);
}

#[track_caller]
fn check_sysfs(declared: &Declared, topology: &Topology, console: &str) {
    let name = &declared.name;
    let mut seen = 0;
    for fields in words(console, "sysfs-cpu") {
        let cpu: u32 = fields[0].parse().unwrap();
        let place = topology.place(cpu).unwrap();
        let numbers: Vec<u32> = fields[1..4].iter().map(|w| w.parse().unwrap()).collect();
        assert_eq!(
            numbers,
            [place.llc, place.core, place.node],
            "{name}: package, core, node of CPU {cpu}"
        );
        assert!(
            declared.cores.contains(&list(fields[4])),
            "{name}: siblings of CPU {cpu}"
        );
        assert!(
            declared.llcs.contains(&list(fields[5])),
            "{name}: package of CPU {cpu}"
        );
        seen += 1;
    }
    assert_eq!(seen, topology.total_cpus(), "{name}:\n{console}");
    for (level, kind) in [
        ("1", "Data"),
        ("1", "Instruction"),
        ("2", "Unified"),
        ("3", "Unified"),
    ] {
        let what = format!("level {level} {kind}");
        let mut by_id = Vec::new();
        for fields in words(console, "sysfs-cache").filter(|f| f[1] == level && f[2] == kind) {
            let cpu: u32 = fields[0].parse().unwrap();
            let sharing = list(fields[4]);
            assert!(
                sharing.contains(&cpu) && declared.sharers(level).contains(&sharing),
                "{name}: {what} of CPU {cpu} is shared by {sharing:?}"
            );
            by_id.push((cpu, fields[3].to_owned()));
        }
        declared.same(&format!("ids of {what}"), &by_id, declared.sharers(level));
    }
    for (node, cpus) in declared.nodes.iter().enumerate() {
        let fields = words(console, "sysfs-node")
            .find(|fields| fields[0] == node.to_string())
            .unwrap_or_else(|| panic!("{name}: no node {node}:\n{console}"));
        assert_eq!(
            &list(fields[1].trim_matches(['[', ']'])),
            cpus,
            "{name}: node {node}"
        );
        let found: Vec<u8> = fields[2..]
            .iter()
            .map(|word| word.parse().unwrap())
            .collect();
        assert_eq!(
            found, declared.distances[node],
            "{name}: distances of node {node}"
        );
    }
    assert_eq!(
        words(console, "sysfs-node").count(),
        declared.nodes.len(),
        "{name}: nodes"
    );
}

/// `lscpu -p` numbers things as it finds them; only which CPUs share a number counts.
#[track_caller]
fn check_lscpu(declared: &Declared, console: &str) {
    let rows: Vec<Vec<&str>> = words(console, "lscpu-cpu")
        .map(|fields| fields[0].split(',').collect())
        .collect();
    let with_cpus: Groups = declared
        .nodes
        .iter()
        .filter(|cpus| !cpus.is_empty())
        .cloned()
        .collect();
    // Columns: CPU, core, socket, node, nothing, L1d, L1i, L2, L3.
    for (column, what, expected) in [
        (1, "core", &declared.cores),
        (2, "socket", &declared.llcs),
        (3, "node", &with_cpus),
        (5, "L1d", &declared.cores),
        (6, "L1i", &declared.cores),
        (7, "L2", &declared.cores),
        (8, "L3", &declared.llcs),
    ] {
        let found: Vec<(u32, String)> = rows
            .iter()
            .map(|row| (row[0].parse().unwrap(), row[column].to_owned()))
            .collect();
        declared.same(&format!("lscpu's {what}"), &found, expected);
    }
    let name = &declared.name;
    for (cache, instances) in [
        ("L1d", declared.cores.len()),
        ("L1i", declared.cores.len()),
        ("L2", declared.cores.len()),
        ("L3", declared.llcs.len()),
    ] {
        let fields = words(console, "lscpu-cache")
            .find(|fields| fields[0] == cache)
            .unwrap();
        let [one, all] = [1, 2].map(|at| fields[at].parse::<usize>().unwrap());
        assert_eq!(all / one, instances, "{name}: lscpu -C, {fields:?}");
        let field = format!("{cache} cache = ");
        let words = if instances == 1 {
            "(1 instance)"
        } else {
            &format!("({instances} instances)")
        };
        assert!(
            console
                .lines()
                .filter_map(|line| line.strip_prefix("lscpu-field "))
                .any(|line| line.starts_with(&field) && line.ends_with(words)),
            "{name}: lscpu --json has no '{field}… {words}':\n{console}"
        );
    }
    let llc: usize = declared.llcs.first().unwrap().len();
    let threads = declared.cores.first().unwrap().len();
    for (field, expected) in [
        ("Thread(s) per core", threads),
        ("Core(s) per socket", llc / threads),
        ("Socket(s)", declared.llcs.len()),
        ("NUMA node(s)", declared.nodes.len()),
    ] {
        let line = format!("lscpu-field {field} = {expected}");
        assert!(
            console.lines().any(|found| found == line),
            "{name}: no '{line}':\n{console}"
        );
    }
}

#[track_caller]
fn check_lstopo(declared: &Declared, memory: &[BTreeSet<u32>], console: &str) {
    // hwloc hangs a node without CPUs to those of its nearest neighbour.
    let found: Vec<BTreeSet<u32>> = objects(console, "NUMANode").collect();
    assert_eq!(
        found.len(),
        declared.nodes.len(),
        "{}: lstopo's nodes",
        declared.name
    );
    for cpus in memory {
        assert!(
            found.contains(cpus),
            "{}: lstopo's nodes are {found:?}",
            declared.name
        );
    }
    for (kind, expected) in [
        ("Package", &declared.llcs),
        ("L3Cache", &declared.llcs),
        ("L2Cache", &declared.cores),
        ("L1Cache", &declared.cores),
        ("L1iCache", &declared.cores),
        ("Core", &declared.cores),
    ] {
        let found: Vec<BTreeSet<u32>> = objects(console, kind).collect();
        assert_eq!(
            found.len(),
            expected.len(),
            "{}: lstopo's {kind}",
            declared.name
        );
        let found: Groups = found.into_iter().collect();
        assert_eq!(&found, expected, "{}: lstopo's {kind}", declared.name);
    }
}

fn objects<'c>(console: &'c str, kind: &'c str) -> impl Iterator<Item = BTreeSet<u32>> + 'c {
    words(console, "lstopo")
        .filter(move |fields| fields[0] == kind)
        .map(|fields| mask(fields[1]))
}

/// `scx-topology CPU node N package N core N l2 N l3 N llc N`
#[track_caller]
fn check_scx(declared: &Declared, console: &str) {
    let with_cpus: Groups = declared
        .nodes
        .iter()
        .filter(|cpus| !cpus.is_empty())
        .cloned()
        .collect();
    let rows: Vec<Vec<&str>> = words(console, "scx-topology").collect();
    for (node, row) in declared.distances.iter().enumerate() {
        let fields = words(console, "scx-node").find(|fields| fields[0] == node.to_string());
        let fields =
            fields.unwrap_or_else(|| panic!("{}: no node {node}:\n{console}", declared.name));
        let found: Vec<u8> = fields[1..]
            .iter()
            .map(|word| word.parse().unwrap())
            .collect();
        assert_eq!(
            &found, row,
            "{}: scx_utils' distances of node {node}",
            declared.name
        );
    }
    for (what, expected) in [
        ("node", &with_cpus),
        ("package", &declared.llcs),
        ("core", &declared.cores),
        ("l2", &declared.cores),
        ("l3", &declared.llcs),
        ("llc", &declared.llcs),
    ] {
        let found: Vec<(u32, String)> = rows
            .iter()
            .map(|row| {
                let at = row.iter().position(|word| *word == what).unwrap();
                (row[0].parse().unwrap(), row[at + 1].to_owned())
            })
            .collect();
        declared.same(&format!("scx_utils' {what}"), &found, expected);
    }
}
