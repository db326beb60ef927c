//! `#[ktstr_test]`

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::{Error, Expr, FnArg, Item, ItemFn, Result, ReturnType, Type};

use crate::args::{Args, Kind, int_of, parse_shape, text_of, unknown};

/// Attributes that are fields of the entry as they are.
const FIELDS: &[(&str, Kind)] = &[
    ("memory_mib", Kind::Int),
    ("duration_s", Kind::Int),
    ("watchdog_timeout_s", Kind::Int),
    ("auto_repro", Kind::Flag),
    ("expect_auto_repro", Kind::Flag),
    ("expect_err", Kind::Flag),
    ("survives_storm", Kind::Flag),
    ("allow_inconclusive", Kind::Flag),
    ("performance_mode", Kind::Flag),
    ("no_perf_mode", Kind::Flag),
    ("kaslr", Kind::Flag),
    ("host_only", Kind::Flag),
    ("num_snapshots", Kind::Int),
    ("scx_stats", Kind::Flag),
    ("seeds", Kind::Int),
    ("settle_ms", Kind::Int),
    ("bpf_map_write", Kind::Refs),
    ("watch_bpf_maps", Kind::Refs),
    ("speeds", Kind::Path),
    ("override_watchdog", Kind::Flag),
    ("extra_include_files", Kind::Texts),
    ("extra_sched_args", Kind::Texts),
    ("networks", Kind::Values),
];

/// Attributes whose field is an `Option`.
const OPTIONS: &[(&str, Kind)] = &[
    ("expect_scx_bpf_error_contains", Kind::Text),
    ("expect_scx_bpf_error_matches", Kind::Text),
    ("allow_kernel_warning", Kind::Text),
    ("allow_invariant", Kind::Text),
    ("cpu_budget", Kind::Int),
    ("smt_factor", Kind::Float),
    ("cleanup_budget_ms", Kind::Int),
    ("config", Kind::Text),
    ("workload_root_cgroup", Kind::Text),
    ("disk", Kind::Path),
];

/// Functions that are called after the VM's end; each returns what it likes of `IntoPostVm`.
const CALLBACKS: &[(&str, Kind)] = &[
    ("post_vm", Kind::Path),
    ("post_vm_unconditional", Kind::Path),
];

/// Checks of workers and their pages: setters of `Assert`.
const WORKER_CHECKS: &[(&str, Kind)] = &[
    ("not_stuck", Kind::Flag),
    ("isolation", Kind::Flag),
    ("max_gap_ms", Kind::Int),
    ("max_spread_pct", Kind::Float),
    ("max_throughput_cv", Kind::Float),
    ("max_throughput_cv_wall", Kind::Float),
    ("min_work_rate", Kind::Float),
    ("min_work_rate_wall", Kind::Float),
    ("min_iteration_rate", Kind::Float),
    ("min_iteration_rate_wall", Kind::Float),
    ("max_migration_ratio", Kind::Float),
    ("max_p99_wake_latency_ns", Kind::Int),
    ("max_wake_latency_cv", Kind::Float),
    ("min_page_locality", Kind::Float),
    ("max_cross_node_migration_ratio", Kind::Float),
    ("max_slow_tier_ratio", Kind::Float),
];

/// Checks of what the monitor sees of a VM: setters of `Assert`.
const MONITOR_CHECKS: &[(&str, Kind)] = &[
    ("max_imbalance_ratio", Kind::Float),
    ("max_local_dsq_depth", Kind::Int),
    ("fail_on_rq_clock_stuck", Kind::Flag),
    ("sustained_samples", Kind::Int),
    ("max_fallback_rate", Kind::Float),
    ("max_keep_last_rate", Kind::Float),
    ("enforce_monitor_thresholds", Kind::Flag),
];

/// Fields of the constraints.
const CONSTRAINTS: &[(&str, Kind)] = &[
    ("min_llcs", Kind::Int),
    ("max_llcs", Kind::Int),
    ("min_numa_nodes", Kind::Int),
    ("max_numa_nodes", Kind::Int),
    ("min_cpus", Kind::Int),
    ("max_cpus", Kind::Int),
    ("requires_smt", Kind::Flag),
];

/// Attributes handled one by one.
const OTHERS: &[&str] = &[
    "ignore",
    "scheduler",
    "staged_schedulers",
    "payload",
    "workloads",
    "time",
    "invariants",
    "topology",
    "numa_nodes",
    "llcs",
    "cores",
    "threads",
];

/// What has an effect on a `host_only` test, beside the checks of workers; everything else is about a VM.
const ON_THE_HOST: &[&str] = &[
    "host_only",
    "ignore",
    "duration_s",
    "settle_ms",
    "expect_err",
    "allow_inconclusive",
    "payload",
    "workloads",
];

/// Pairs that contradict each other.
const EXCLUDES: &[(&str, &str)] = &[
    ("performance_mode", "no_perf_mode"),
    ("expect_auto_repro", "expect_err"),
    ("survives_storm", "expect_err"),
    ("survives_storm", "expect_auto_repro"),
    ("topology", "numa_nodes"),
    ("topology", "llcs"),
    ("topology", "cores"),
    ("topology", "threads"),
];

/// Limits of which the first must not be above the second.
const ORDERED: &[(&str, &str)] = &[
    ("min_llcs", "max_llcs"),
    ("min_numa_nodes", "max_numa_nodes"),
    ("min_cpus", "max_cpus"),
];

/// Attributes that need another one.
const NEEDS: &[(&str, &str)] = &[
    ("expect_auto_repro", "scheduler"),
    ("bpf_map_write", "scheduler"),
    ("watch_bpf_maps", "scheduler"),
    ("override_watchdog", "scheduler"),
    ("extra_sched_args", "scheduler"),
    ("config", "scheduler"),
    ("survives_storm", "scheduler"),
    ("cpu_budget", "no_perf_mode"),
    ("expect_scx_bpf_error_contains", "expect_err"),
    ("expect_scx_bpf_error_matches", "expect_err"),
];

/// Attributes that the interface once had, and what says the same today.
const GIVEN_UP: &[(&str, &str)] = &[
    (
        "required_flags",
        "a scheduler has no flags any more; declare one scheduler for each set of arguments, with `sched_args`",
    ),
    (
        "excluded_flags",
        "a scheduler has no flags any more; declare one scheduler for each set of arguments, with `sched_args`",
    ),
    ("memory_mb", "it is `memory_mib` now"),
    (
        "workers_per_cgroup",
        "each cgroup says it: `CgroupDef::named(..).workers(n)`",
    ),
    ("not_starved", "it is `not_stuck` now"),
];

const WANTED: &str = "a ktstr test is `fn name(ctx: &Ctx) -> Result<AssertResult>`";

pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let args: Args = syn::parse2(attribute)?;
    let Item::Fn(mut function) = syn::parse2(item)? else {
        return Err(Error::new(
            Span::call_site(),
            format!("#[ktstr_test] goes on a function; {WANTED}"),
        ));
    };
    check_signature(&function)?;
    check_keys(&args)?;
    check_values(&args)?;
    let fields = fields(&args)?;
    let asserts = check_setters(&args)?;
    let topology = topology(&args)?;
    let scheduler = match args.get("scheduler") {
        Some(arg) => {
            let path = Kind::Constant.tokens(arg)?;
            quote!(::core::option::Option::Some(&#path))
        }
        None => quote!(::core::option::Option::None),
    };
    let staged = constants(&args, "staged_schedulers", "`declare_scheduler!` made")?;
    let workloads = constants(&args, "workloads", "are of type `Payload`")?;
    let payload = match args.get("payload") {
        Some(arg) => {
            let path = Kind::Payload.tokens(arg)?;
            quote!(::core::option::Option::Some(&#path))
        }
        None => quote!(::core::option::Option::None),
    };
    let constraints = constraints(&args)?;
    let time = time(&args)?;
    let invariants = invariants(&args)?;
    if let Some(arg) = args.get("ignore") {
        // The entry gets it together with the test.
        Kind::Flag.tokens(arg)?;
    }
    let ignored = ignored(&args, &mut function);
    let entry_ignored = ignored.as_ref().map(|_| quote!(ignore: true,));
    // It is inside of the entry from now on; outside, its name is that of the test.
    function.vis = syn::Visibility::Inherited;
    let name = &function.sig.ident;
    let text = name.to_string();
    let text = text.trim_start_matches("r#");
    // As it is: `a_b` and `A_B` are two tests.
    let entry = format_ident!("__KTSTR_TEST_{text}");
    Ok(quote! {
        #[::ktstr::__private::linkme::distributed_slice(::ktstr::KTSTR_TESTS)]
        #[linkme(crate = ::ktstr::__private::linkme)]
        #[allow(non_upper_case_globals, reason = "it carries the function's name")]
        static #entry: &'static ::ktstr::KtstrTestEntry = &::ktstr::KtstrTestEntry {
            name: ::ktstr::__private::test_name(::core::concat!(::core::module_path!(), "::", #text)),
            place: ::core::concat!(::core::file!(), ":", ::core::line!()),
            manifest_dir: ::core::env!("CARGO_MANIFEST_DIR"),
            package: ::core::env!("CARGO_PKG_NAME"),
            func: {
                #function
                #name
            },
            scheduler: #scheduler,
            staged_schedulers: #staged,
            payload: #payload,
            workloads: #workloads,
            topology: #topology,
            constraints: #constraints,
            #time
            #invariants
            assert: ::ktstr::Assert::NO_OVERRIDES #asserts,
            #fields
            #entry_ignored
            ..::ktstr::KtstrTestEntry::DEFAULT
        };

        // Dropped by the compiler wherever Rust's own harness is not linked, and what is in it with it.
        #[::core::prelude::v1::test]
        #ignored
        fn #name() {
            #[::ktstr::__private::linkme::distributed_slice(::ktstr::__private::LIBTEST_TESTS)]
            #[linkme(crate = ::ktstr::__private::linkme)]
            static LISTED: &'static ::ktstr::KtstrTestEntry = #entry;
            ::ktstr::__private::run_in_libtest(LISTED);
        }

        // What constants hide from the macro, the compiler sees.
        const _: () = #entry.assert_sound();
    })
}

/// `#[ktstr_test_entry]`: the static, and its place among the tests.
pub(crate) fn register(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !attribute.is_empty() {
        return Err(Error::new_spanned(
            attribute,
            "#[ktstr_test_entry] takes nothing: the fields of the static say it all",
        ));
    }
    let Item::Static(entry) = syn::parse2(item)? else {
        return Err(Error::new(
            Span::call_site(),
            "#[ktstr_test_entry] goes on a `static NAME: KtstrTestEntry`",
        ));
    };
    let name = &entry.ident;
    Ok(quote! {
        #entry

        const _: () = {
            #[::ktstr::__private::linkme::distributed_slice(::ktstr::KTSTR_TESTS)]
            #[linkme(crate = ::ktstr::__private::linkme)]
            static REGISTERED: &'static ::ktstr::KtstrTestEntry = &#name;
        };
    })
}

/// The clock that a test needs.
fn time(args: &Args) -> Result<TokenStream> {
    let Some(arg) = args.get("time") else {
        return Ok(TokenStream::new());
    };
    let text = Kind::Text.tokens(arg)?;
    let value = arg.value.as_ref().and_then(text_of).unwrap_or_default();
    let clock = match value.as_str() {
        "host" => quote!(Host),
        "virtual" => quote!(Virtual),
        other => {
            let what = format!("unknown clock `{other}`; expected \"host\" or \"virtual\"");
            return Err(Error::new_spanned(text, what));
        }
    };
    Ok(quote!(time: ::core::option::Option::Some(::ktstr::__private::Clock::#clock),))
}

/// Rules of the kernel's own books: all, none, or those of these names.
fn invariants(args: &Args) -> Result<TokenStream> {
    let Some(arg) = args.get("invariants") else {
        return Ok(TokenStream::new());
    };
    if let Some(Expr::Array(_)) = &arg.value {
        let names = Kind::Texts.tokens(arg)?;
        return Ok(quote!(invariants: ::ktstr::Invariants::Only(#names),));
    }
    let text = Kind::Text.tokens(arg)?;
    let value = arg.value.as_ref().and_then(text_of).unwrap_or_default();
    match value.as_str() {
        "on" => Ok(quote!(invariants: ::ktstr::Invariants::On,)),
        "off" => Ok(quote!(invariants: ::ktstr::Invariants::Off,)),
        other => {
            let what = format!(
                "`{other}` is not a choice of invariants; expected \"on\", \"off\" or a list of names in brackets"
            );
            Err(Error::new_spanned(text, what))
        }
    }
}

/// `#[ignore]` for the test, from the attribute's `ignore` or from the function, which loses it.
fn ignored(args: &Args, function: &mut ItemFn) -> Option<TokenStream> {
    let at = function
        .attrs
        .iter()
        .position(|attribute| attribute.path().is_ident("ignore"));
    let own = at.map(|at| function.attrs.remove(at));
    match own {
        Some(attribute) => Some(quote!(#attribute)),
        None => args.is_on("ignore").then(|| quote!(#[ignore])),
    }
}

fn check_signature(function: &ItemFn) -> Result<()> {
    let signature = &function.sig;
    let fail = |span: Span, what: &str| Err(Error::new(span, format!("{WANTED}; {what}")));
    if let Some(token) = &signature.asyncness {
        return fail(token.span, "it cannot be async");
    }
    if !signature.generics.params.is_empty() {
        return fail(
            syn::spanned::Spanned::span(&signature.generics),
            "it cannot be generic",
        );
    }
    let argument = signature.inputs.first();
    let by_reference =
        matches!(argument, Some(FnArg::Typed(typed)) if matches!(*typed.ty, Type::Reference(_)));
    if signature.inputs.len() != 1 || !by_reference {
        let span = argument.map_or(signature.ident.span(), syn::spanned::Spanned::span);
        return fail(span, "it takes exactly one argument, `&Ctx`");
    }
    if matches!(signature.output, ReturnType::Default) {
        return fail(signature.ident.span(), "it returns nothing here");
    }
    Ok(())
}

/// Every attribute beside the checks.
pub(crate) fn attribute_names() -> Vec<&'static str> {
    [FIELDS, OPTIONS, CALLBACKS, CONSTRAINTS]
        .iter()
        .flat_map(|table| table.iter().map(|(name, _)| *name))
        .chain(OTHERS.iter().copied())
        .collect()
}

/// Every check.
pub(crate) fn check_names() -> Vec<&'static str> {
    let all = WORKER_CHECKS.iter().chain(MONITOR_CHECKS);
    all.map(|(name, _)| *name).collect()
}

/// `.check(value)` for every check that is given.
pub(crate) fn check_setters(args: &Args) -> Result<TokenStream> {
    let mut out = setters(args, WORKER_CHECKS)?;
    out.extend(setters(args, MONITOR_CHECKS)?);
    Ok(out)
}

/// Refuses what cannot have an effect on a test that boots no VM, whatever its value.
fn check_host_only(args: &Args) -> Result<()> {
    if !args.is_on("host_only") {
        return Ok(());
    }
    let has_effect = |key: &syn::Ident| {
        ON_THE_HOST.iter().any(|name| key == name)
            || WORKER_CHECKS.iter().any(|(name, _)| key == name)
    };
    match args.0.iter().find(|arg| !has_effect(&arg.key)) {
        None => Ok(()),
        Some(arg) => Err(Error::new(
            arg.key.span(),
            format!(
                "`{}` has no effect on a `host_only` test, which boots no VM; leave one of the two out",
                arg.key
            ),
        )),
    }
}

fn check_keys(args: &Args) -> Result<()> {
    let mut known = attribute_names();
    known.extend(check_names());
    for arg in &args.0 {
        if let Some((name, now)) = GIVEN_UP.iter().find(|(name, _)| arg.key == name) {
            return Err(Error::new(
                arg.key.span(),
                format!("there is no `{name}` any more: {now}"),
            ));
        }
        if !known.iter().any(|name| arg.key == name) {
            return Err(unknown("attribute", &arg.key, &known));
        }
    }
    check_host_only(args)?;
    for (a, b) in EXCLUDES {
        if args.is_on(a) && args.is_on(b) {
            return Err(Error::new(
                args.span(b),
                format!("`{a}` and `{b}` exclude each other"),
            ));
        }
    }
    for (key, needed) in NEEDS {
        if args.is_on(key) && !args.is_on(needed) {
            return Err(Error::new(
                args.span(key),
                format!("`{key}` needs `{needed}`"),
            ));
        }
    }
    if args.is_on("expect_auto_repro")
        && args.get("auto_repro").is_some()
        && !args.is_on("auto_repro")
    {
        return Err(Error::new(
            args.span("auto_repro"),
            "`expect_auto_repro` needs `auto_repro`",
        ));
    }
    Ok(())
}

/// What the values themselves contradict, as far as they are literals.
fn check_values(args: &Args) -> Result<()> {
    let literal = |key: &str| args.get(key).and_then(|arg| arg.value.as_ref());
    for (low, high) in ORDERED {
        if let (Some(least), Some(most)) = (
            literal(low).and_then(int_of),
            literal(high).and_then(int_of),
        ) && least > most
        {
            let text =
                format!("`{low}` is {least}, above `{high}`, which is {most}: no machine fits");
            return Err(Error::new(args.span(low), text));
        }
    }
    for key in ["expect_scx_bpf_error_matches", "allow_kernel_warning"] {
        if let Some(value) = literal(key)
            && let Some(pattern) = text_of(value)
            && let Err(error) = regex_syntax::parse(&pattern)
        {
            let text = format!("no regular expression: {error}");
            return Err(Error::new(syn::spanned::Spanned::span(value), text));
        }
    }
    Ok(())
}

fn fields(args: &Args) -> Result<TokenStream> {
    let mut out = TokenStream::new();
    for (name, kind) in FIELDS {
        if let Some(arg) = args.get(name) {
            let (field, value) = (&arg.key, kind.tokens(arg)?);
            out.extend(quote!(#field: #value,));
        }
    }
    for (name, kind) in OPTIONS {
        if let Some(arg) = args.get(name) {
            let (field, value) = (&arg.key, kind.tokens(arg)?);
            out.extend(quote!(#field: ::core::option::Option::Some(#value),));
        }
    }
    for (name, kind) in CALLBACKS {
        if let Some(arg) = args.get(name) {
            let (field, value) = (&arg.key, kind.tokens(arg)?);
            out.extend(quote!(#field: ::core::option::Option::Some(::ktstr::post_vm!(#value)),));
        }
    }
    Ok(out)
}

/// `.key(value)` for every key of `table` that is given.
fn setters(args: &Args, table: &[(&str, Kind)]) -> Result<TokenStream> {
    let mut out = TokenStream::new();
    for (name, kind) in table {
        if let Some(arg) = args.get(name) {
            let (setter, value) = (&arg.key, kind.tokens(arg)?);
            out.extend(quote!(.#setter(#value)));
        }
    }
    Ok(out)
}

/// `[A, B]` as references to those constants.
fn constants(args: &Args, key: &str, which: &str) -> Result<TokenStream> {
    let wanted = format!("`{key}` takes a list of constants that {which}, such as [A, B]");
    let Some(arg) = args.get(key) else {
        return Ok(quote!(&[]));
    };
    let Some(syn::Expr::Array(array)) = &arg.value else {
        let span = arg
            .value
            .as_ref()
            .map_or(arg.key.span(), syn::spanned::Spanned::span);
        return Err(Error::new(span, wanted));
    };
    for element in &array.elems {
        if !matches!(element, syn::Expr::Path(_)) {
            return Err(Error::new(syn::spanned::Spanned::span(element), wanted));
        }
    }
    let names = array.elems.iter();
    Ok(quote!(&[#(&#names),*]))
}

/// Each of them that is not given comes from the scheduler, else from the defaults.
fn constraints(args: &Args) -> Result<TokenStream> {
    let mut out = TokenStream::new();
    for (name, kind) in CONSTRAINTS {
        if let Some(arg) = args.get(name) {
            let (field, value) = (&arg.key, kind.tokens(arg)?);
            if name.starts_with("max_") {
                out.extend(quote!(#field: ::core::option::Option::Some(#value),));
            } else {
                out.extend(quote!(#field: #value,));
            }
        }
    }
    let base = match args.get("scheduler").and_then(|arg| arg.value.as_ref()) {
        Some(path) => quote!(#path.constraints),
        None => quote!(::ktstr::TopologyConstraints::DEFAULT),
    };
    if out.is_empty() {
        return Ok(base);
    }
    Ok(quote!(::ktstr::TopologyConstraints { #out ..#base }))
}

/// The declared shape; each dimension that is not declared comes from the scheduler, else from the default.
fn topology(args: &Args) -> Result<TokenStream> {
    if let Some(arg) = args.get("topology") {
        return shape(arg.value.as_ref(), arg.key.span());
    }
    let base = match args.get("scheduler").and_then(|arg| arg.value.as_ref()) {
        Some(path) => quote! {
            match #path.topology {
                ::core::option::Option::Some(topology) => topology,
                ::core::option::Option::None => ::ktstr::TopologySpec::DEFAULT,
            }
        },
        None => quote!(::ktstr::TopologySpec::DEFAULT),
    };
    let mut own = TokenStream::new();
    for name in ["numa_nodes", "llcs", "cores", "threads"] {
        if let Some(arg) = args.get(name) {
            let (field, value) = (&arg.key, Kind::Int.tokens(arg)?);
            own.extend(quote!(#field: #value,));
        }
    }
    if own.is_empty() {
        return Ok(base);
    }
    let all = ["numa_nodes", "llcs", "cores", "threads"];
    if all.iter().all(|name| args.get(name).is_some()) {
        return Ok(quote!(::ktstr::TopologySpec { #own }));
    }
    Ok(quote!(::ktstr::TopologySpec { #own ..#base }))
}

/// Four numbers, or a shape in quotes, as a `TopologySpec`.
pub(crate) fn shape(value: Option<&syn::Expr>, key: Span) -> Result<TokenStream> {
    const WANTED: &str = "`topology` takes (NUMA nodes, LLCs in all, cores per LLC, threads per core), such as (1, 2, 4, 2), or the same in quotes: \"1n2l4c2t\"";
    let span = value.map_or(key, syn::spanned::Spanned::span);
    let numbers = match value {
        Some(syn::Expr::Tuple(tuple)) => of_tuple(tuple),
        value => value.and_then(text_of).as_deref().and_then(parse_shape),
    };
    let Some([numa_nodes, llcs, cores, threads]) = numbers else {
        return Err(Error::new(span, WANTED));
    };
    if [numa_nodes, llcs, cores, threads].contains(&0) || threads > 2 || llcs % numa_nodes != 0 {
        let rules = "no number may be 0, a core has at most 2 threads, and the LLCs must divide evenly among the nodes";
        return Err(Error::new(
            span,
            format!("no machine has this shape: {rules}"),
        ));
    }
    Ok(
        quote!(::ktstr::TopologySpec { numa_nodes: #numa_nodes, llcs: #llcs, cores: #cores, threads: #threads }),
    )
}

fn of_tuple(tuple: &syn::ExprTuple) -> Option<[u32; 4]> {
    let numbers = tuple
        .elems
        .iter()
        .map(|element| u32::try_from(int_of(element)?).ok());
    let numbers: Vec<u32> = numbers.collect::<Option<_>>()?;
    numbers.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(attribute: &str) -> Result<String> {
        let function = quote!(
            fn t(ctx: &Ctx) -> Result<AssertResult> {
                body(ctx)
            }
        );
        let attribute = attribute.parse().expect("tokens");
        expand(attribute, function).map(|tokens| tokens.to_string())
    }

    #[track_caller]
    fn refused(attribute: &str, needle: &str) {
        let error = expanded(attribute).unwrap_err().to_string();
        assert!(error.contains(needle), "{attribute}: {error}");
    }

    /// A value that the attribute takes.
    fn sample(name: &str) -> &'static str {
        let tables = [
            FIELDS,
            OPTIONS,
            CALLBACKS,
            WORKER_CHECKS,
            MONITOR_CHECKS,
            CONSTRAINTS,
        ];
        let kind = tables
            .iter()
            .flat_map(|table| table.iter())
            .find(|(known, _)| *known == name);
        match (kind.map(|(_, kind)| *kind), name) {
            (Some(Kind::Flag), _) | (None, "ignore") => "",
            (Some(Kind::Int | Kind::Float), _) => "= 1",
            (Some(Kind::Text), _) => "= \"a\"",
            (Some(Kind::Texts | Kind::Values | Kind::Refs), _) => "= []",
            (None, "time") => "= \"host\"",
            (None, "invariants") => "= \"off\"",
            (None, "topology") => "= \"1n1l1c1t\"",
            (None, "staged_schedulers" | "workloads") => "= [X]",
            (None, "numa_nodes" | "llcs" | "cores" | "threads") => "= 1",
            _ => "= X",
        }
    }

    #[test]
    fn what_is_about_a_vm_is_refused_on_the_host() {
        let mut on_the_host: Vec<&str> = Vec::new();
        let names = attribute_names().into_iter().chain(check_names());
        for name in names.filter(|name| *name != "host_only") {
            let attribute = format!("host_only, {name} {}", sample(name));
            match expanded(&attribute) {
                Ok(_) => on_the_host.push(name),
                Err(error) => assert_eq!(
                    error.to_string(),
                    format!(
                        "`{name}` has no effect on a `host_only` test, which boots no VM; leave one of the two out"
                    )
                ),
            }
        }
        let mut expected: Vec<&str> = ON_THE_HOST
            .iter()
            .copied()
            .filter(|name| *name != "host_only")
            .chain(WORKER_CHECKS.iter().map(|(name, _)| *name))
            .collect();
        on_the_host.sort_unstable();
        expected.sort_unstable();
        assert_eq!(on_the_host, expected);
        // Of a flag that is on by default, `false` is what would be without effect.
        refused("host_only, kaslr = false", "`kaslr` has no effect");
        assert!(expanded("host_only = false, kaslr = false").is_ok());
    }

    #[test]
    fn numbers_in_maps_are_constants_or_a_list_of_them() {
        for (value, tokens) in [
            ("W", "& [& W]"),
            ("[A, m :: B]", "& [& A , & m :: B]"),
            ("[]", "& []"),
        ] {
            let text = expanded(&format!("scheduler = S, bpf_map_write = {value}")).unwrap();
            assert!(
                text.contains(&format!("bpf_map_write : {tokens} ,")),
                "{text}"
            );
        }
        for old in ["&[(\".bss\", \"f\", 7)]", "[(\".bss\", \"f\", 7)]"] {
            let attribute = format!("scheduler = S, bpf_map_write = {old}");
            refused(&attribute, "`bpf_map_write` takes the name of a constant");
        }
    }

    #[test]
    fn arguments_need_a_scheduler_to_go_to() {
        refused(
            "extra_sched_args = [\"-v\"]",
            "`extra_sched_args` needs `scheduler`",
        );
        assert!(expanded("scheduler = S, extra_sched_args = [\"-v\"]").is_ok());
    }
}
