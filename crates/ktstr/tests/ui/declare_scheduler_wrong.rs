use ktstr::prelude::*;

declare_scheduler!(NO_NAME, { binary: "scx_one" });
declare_scheduler!(UNKNOWN_FIELD, { name: "two", binary: "scx_two", sched_arg: ["-v"] });
declare_scheduler!(TWICE, { name: "three", name: "four", binary: "scx_three" });
declare_scheduler!(BAD_TOPOLOGY, { name: "five", binary: "scx_five", topology: (1, 2, 4) });
declare_scheduler!(NO_SHAPE, { name: "six", binary: "scx_six", topology: (2, 3, 1, 1) });

ktstr::test_main!();
