//! Prints scx_utils' Topology, one line per CPU and node.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let topology = scx_utils::Topology::new()?;
    for cpu in topology.all_cpus.values() {
        println!(
            "scx-topology {} node {} package {} core {} l2 {} l3 {} llc {}",
            cpu.id, cpu.node_id, cpu.package_id, cpu.core_id, cpu.l2_id, cpu.l3_id, cpu.llc_id
        );
    }
    for node in topology.nodes.values() {
        let distances: Vec<String> = node.distance.iter().map(ToString::to_string).collect();
        println!("scx-node {} {}", node.id, distances.join(" "));
    }
    println!("scx-smt {}", topology.smt_enabled);
    Ok(())
}
