use ktstr::prelude::*;

declare_scheduler!(NO_NAME, { binary: "scx_one" });
declare_scheduler!(UNKNOWN_FIELD, { name: "two", binary: "scx_two", sched_arg: ["-v"] });
declare_scheduler!(TWICE, { name: "three", name: "four", binary: "scx_three" });
declare_scheduler!(BAD_TOPOLOGY, { name: "five", binary: "scx_five", topology: "many" });

ktstr::test_main!();
