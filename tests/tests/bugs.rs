//! Scheduler bugs that happened: each trigger runs on a kernel into which the bug was planted, and on the clean one.
//! `cargo xtask bugs` builds the kernels and makes the table of the book.

#[path = "../bugs/support.rs"]
mod support;

#[path = "../bugs/delayed_group_counted_as_task/test.rs"]
mod delayed_group_counted_as_task;
#[path = "../bugs/delayed_task_at_attach/test.rs"]
mod delayed_task_at_attach;
#[path = "../bugs/delayed_task_changes_class/test.rs"]
mod delayed_task_changes_class;
#[path = "../bugs/delayed_task_in_throttled_group/test.rs"]
mod delayed_task_in_throttled_group;
#[path = "../bugs/forgotten_affinity/test.rs"]
mod forgotten_affinity;
#[path = "../bugs/local_group_imbalance/test.rs"]
mod local_group_imbalance;
#[path = "../bugs/offlined_group_load/test.rs"]
mod offlined_group_load;
#[path = "../bugs/psi_of_delayed_tasks/test.rs"]
mod psi_of_delayed_tasks;
#[path = "../bugs/rt_hog_starves_ext/test.rs"]
mod rt_hog_starves_ext;
#[path = "../bugs/schedstats_of_deadline_server/test.rs"]
mod schedstats_of_deadline_server;
#[path = "../bugs/stopper_loses_its_class/test.rs"]
mod stopper_loses_its_class;
#[path = "../bugs/unthrottle_of_delayed_group/test.rs"]
mod unthrottle_of_delayed_group;
#[path = "../bugs/wakeup_in_throttled_group/test.rs"]
mod wakeup_in_throttled_group;
