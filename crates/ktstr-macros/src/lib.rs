#![doc = include_str!("../README.md")]

mod args;
mod claim;
mod condition;
mod scheduler;
mod test;

use proc_macro::TokenStream;

/// Registers a function as a test that runs in a VM; see `ktstr::KtstrTestEntry` for what each attribute means.
///
/// ```text
/// #[ktstr_test(scheduler = MY_SCHED, topology = "1n2l2c1t", duration_s = 5, not_stuck)]
/// fn two_groups(ctx: &Ctx) -> Result<AssertResult> { … }
/// ```
#[proc_macro_attribute]
pub fn ktstr_test(attribute: TokenStream, item: TokenStream) -> TokenStream {
    test::expand(attribute.into(), item.into())
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}

/// Declares a scheduler that tests can name.
///
/// ```text
/// declare_scheduler!(MY_SCHED, { name: "my_sched", binary: "scx_my_sched", sched_args: ["--verbose"] });
/// ```
///
/// The constant is `pub` unless a visibility stands before its name. Commas between the keys may be left out, and `=` serves as
/// well as `:`.
#[proc_macro]
pub fn declare_scheduler(input: TokenStream) -> TokenStream {
    scheduler::expand(input.into())
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}

/// Gone; the error names what declares a scheduler.
#[doc(hidden)]
#[proc_macro_derive(Scheduler, attributes(scheduler, flag))]
pub fn derive_scheduler(input: TokenStream) -> TokenStream {
    let item = syn::parse_macro_input!(input as syn::DeriveInput);
    scheduler::given_up(&item).to_compile_error().into()
}

/// Registers a `static` of type `KtstrTestEntry` that was written by hand, as `#[ktstr_test]` does with its own.
#[proc_macro_attribute]
pub fn ktstr_test_entry(attribute: TokenStream, item: TokenStream) -> TokenStream {
    test::register(attribute.into(), item.into())
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}

/// Registers a `fn(&Kernel) -> bool` that a step can wait for by `Cond::custom`.
///
/// ```text
/// #[ktstr_condition]
/// fn cpu_1_has_two_tasks(kernel: &Kernel) -> bool { … }
/// ```
#[proc_macro_attribute]
pub fn ktstr_condition(attribute: TokenStream, item: TokenStream) -> TokenStream {
    condition::expand(&attribute.into(), item.into())
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}

/// Gives each field of a struct of figures a claim: `stats.claim_<field>(&mut verdict)`.
#[proc_macro_derive(Claim)]
pub fn derive_claim(input: TokenStream) -> TokenStream {
    claim::expand(input.into())
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}

/// The names that `#[ktstr_test]` (`knob_names!(attributes)`) or `declare_scheduler!` (`knob_names!(scheduler_keys)`) takes, and the
/// checks (`knob_names!(checks)`), which both take, as a slice of texts.
#[doc(hidden)]
#[proc_macro]
pub fn knob_names(input: TokenStream) -> TokenStream {
    let names = match input.to_string().as_str() {
        "attributes" => test::attribute_names(),
        "scheduler_keys" => scheduler::KEYS.to_vec(),
        "checks" => test::check_names(),
        other => {
            let text = format!("expected attributes, scheduler_keys or checks, found '{other}'");
            return quote::quote!(::core::compile_error!(#text)).into();
        }
    };
    quote::quote!(&[#(#names),*]).into()
}
