//! `declare_scheduler!`

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Error, Expr, Ident, Result, Token, Visibility, braced};

use crate::args::{Arg, Args, Kind, text_of, unknown};
use crate::test::{check_names, check_setters, shape};

/// Keys beside the checks, which are the defaults of all its tests.
pub(crate) const KEYS: &[&str] = &[
    "name",
    "binary",
    "binary_path",
    "kernel_builtin_enable",
    "kernel_builtin_disable",
    "sched_args",
    "kargs",
    "kernels",
    "sysctls",
    "topology",
    "cgroup_parent",
    "config_file",
    "config_file_def",
    "constraints",
    "assert",
    "env",
    "stats_socket",
    "verifier_exclude_topologies",
];

/// Those of them that are lists of texts.
const TEXT_LISTS: [&str; 4] = [
    "sched_args",
    "kargs",
    "kernels",
    "verifier_exclude_topologies",
];

/// Keys that the macro once had, and their names today.
const RENAMED: &[(&str, &str)] = &[
    ("path", "binary_path"),
    ("enable", "kernel_builtin_enable"),
    ("disable", "kernel_builtin_disable"),
    ("config", "config_file"),
];

struct Declaration {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    ident: Ident,
    args: Args,
}

impl Parse for Declaration {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let ident = input.parse()?;
        input.parse::<Token![,]>()?;
        let body;
        braced!(body in input);
        let args = Args::with_or_without_commas(&body)?;
        input.parse::<Option<Token![,]>>()?;
        Ok(Self {
            attributes,
            visibility,
            ident,
            args,
        })
    }
}

pub(crate) fn expand(input: TokenStream) -> Result<TokenStream> {
    let Declaration {
        attributes,
        visibility,
        ident,
        args,
    } = syn::parse2(input)?;
    let known: Vec<&str> = KEYS.iter().copied().chain(check_names()).collect();
    for arg in &args.0 {
        if let Some((old, now)) = RENAMED.iter().find(|(old, _)| arg.key == old) {
            return Err(Error::new(
                arg.key.span(),
                format!("`{old}` is called `{now}`"),
            ));
        }
        if !known.iter().any(|name| arg.key == name) {
            return Err(unknown("key", &arg.key, &known));
        }
    }
    let Some(name) = args.get("name") else {
        return Err(Error::new(ident.span(), "a scheduler needs a `name`"));
    };
    let name = Kind::Text.tokens(name)?;
    let spec = spec(&ident, &args)?;
    let asserts = asserts(&args)?;
    let fields = fields(&args)?;
    let registration = format_ident!("__KTSTR_SCHEDULER_{ident}");
    let doc = if attributes.iter().any(|one| one.path().is_ident("doc")) {
        quote!()
    } else {
        quote!(#[doc = "A scheduler declared for tests."])
    };
    // Without a visibility it is public, as other files of a package use it.
    let visibility = match visibility {
        Visibility::Inherited => {
            quote!(#[allow(unreachable_pub, reason = "other files may use it")] pub)
        }
        said => quote!(#said),
    };
    Ok(quote! {
        #doc
        #(#attributes)*
        #visibility const #ident: ::ktstr::Scheduler = ::ktstr::Scheduler {
            name: #name,
            place: ::core::concat!(::core::file!(), ":", ::core::line!()),
            manifest_dir: ::core::env!("CARGO_MANIFEST_DIR"),
            spec: #spec,
            assert: #asserts,
            #fields
            ..::ktstr::Scheduler::DEFAULT
        };

        #[::ktstr::__private::linkme::distributed_slice(::ktstr::KTSTR_SCHEDULERS)]
        #[linkme(crate = ::ktstr::__private::linkme)]
        static #registration: &'static ::ktstr::Scheduler = &#ident;
    })
}

/// The fields whose values are the keys' own.
fn fields(args: &Args) -> Result<TokenStream> {
    let mut fields = TokenStream::new();
    for key in TEXT_LISTS {
        if let Some(arg) = args.get(key) {
            let (field, value) = (&arg.key, Kind::Texts.tokens(arg)?);
            fields.extend(quote!(#field: #value,));
        }
    }
    for key in ["cgroup_parent", "config_file", "stats_socket"] {
        if let Some(arg) = args.get(key) {
            let (field, value) = (&arg.key, Kind::Text.tokens(arg)?);
            fields.extend(quote!(#field: ::core::option::Option::Some(#value),));
        }
    }
    for key in ["sysctls", "env"] {
        if let Some(arg) = args.get(key) {
            let (field, value) = (&arg.key, Kind::Values.tokens(arg)?);
            fields.extend(quote!(#field: #value,));
        }
    }
    if let Some(arg) = args.get("config_file_def") {
        let value = pair_of_texts(arg)?;
        fields.extend(quote!(config_file_def: ::core::option::Option::Some(#value),));
    }
    if let Some(arg) = args.get("constraints") {
        let value = Kind::Path.tokens(arg)?;
        fields.extend(quote!(constraints: #value,));
    }
    if let Some(arg) = args.get("topology") {
        let value = shape(arg.value.as_ref(), arg.key.span())?;
        fields.extend(quote!(topology: ::core::option::Option::Some(#value),));
    }
    Ok(fields)
}

/// `("--config {file}", "/guest/path")`
fn pair_of_texts(arg: &Arg) -> Result<TokenStream> {
    let is_text = |value: &Expr| text_of(value).is_some() || matches!(value, Expr::Path(_));
    match &arg.value {
        Some(Expr::Tuple(pair)) if pair.elems.len() == 2 && pair.elems.iter().all(is_text) => {
            Ok(quote!(#pair))
        }
        _ => Err(Error::new(
            arg.key.span(),
            "`config_file_def` takes the arguments, with {file} for the path, and the path in the guest: (\"--config {file}\", \"/etc/x.conf\")",
        )),
    }
}

/// The checks of all its tests: `assert`, with what single keys say over it.
fn asserts(args: &Args) -> Result<TokenStream> {
    let single = check_setters(args)?;
    match args.get("assert") {
        Some(arg) => {
            let all = Kind::Path.tokens(arg)?;
            Ok(quote!((#all) #single))
        }
        None => Ok(quote!(::ktstr::Assert::NO_OVERRIDES #single)),
    }
}

/// `#[derive(Scheduler)]`, which once declared a scheduler with flags.
pub(crate) fn given_up(item: &syn::DeriveInput) -> Error {
    let text = "a scheduler is declared with `declare_scheduler!(NAME, { name = \"x\", binary = \"scx_x\", sched_args = [\"--a\"] })`; \
        this derive is gone, and the flags with it: declare one scheduler for each set of arguments";
    Error::new(item.ident.span(), text)
}

/// Exactly one of: a name to build or find, a path, or a pair of shell commands.
fn spec(ident: &Ident, args: &Args) -> Result<TokenStream> {
    if args.get("kernel_builtin_disable").is_some() && args.get("kernel_builtin_enable").is_none() {
        return Err(Error::new(
            args.span("kernel_builtin_disable"),
            "`kernel_builtin_disable` turns off what `kernel_builtin_enable` turned on, and is never run for a program; leave it out, or add `kernel_builtin_enable`",
        ));
    }
    let given: Vec<&str> = ["binary", "binary_path", "kernel_builtin_enable"]
        .into_iter()
        .filter(|key| args.get(key).is_some())
        .collect();
    let text = |key: &str| args.get(key).map(|arg| Kind::Text.tokens(arg)).transpose();
    let texts = |key: &str| match args.get(key) {
        Some(arg) => Kind::Texts.tokens(arg),
        None => Ok(quote!(&[])),
    };
    match given.as_slice() {
        [only] if *only == "binary" => {
            let name = text("binary")?;
            Ok(quote!(::ktstr::SchedulerSpec::Discover(#name)))
        }
        [only] if *only == "kernel_builtin_enable" => {
            let enable = texts("kernel_builtin_enable")?;
            let disable = texts("kernel_builtin_disable")?;
            Ok(quote!(::ktstr::SchedulerSpec::KernelBuiltin { enable: #enable, disable: #disable }))
        }
        [_only_path] => {
            let path = text("binary_path")?;
            Ok(quote!(::ktstr::SchedulerSpec::Path(#path)))
        }
        [] => Err(Error::new(
            ident.span(),
            "a scheduler needs one of `binary` (a name to build or find), `binary_path`, or `kernel_builtin_enable` (guest shell commands)",
        )),
        [_, second, ..] => Err(Error::new(
            args.span(second),
            "only one of `binary`, `binary_path` and `kernel_builtin_enable` can say where a scheduler comes from",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(keys: &str) -> Result<String> {
        let tokens = format!("S, {{ name: \"s\", {keys} }}").parse();
        expand(tokens.expect("tokens")).map(|tokens| tokens.to_string())
    }

    #[test]
    fn commands_that_would_never_be_run_are_refused() {
        for keys in [
            "binary: \"scx_s\", kernel_builtin_disable: [\"true\"]",
            "binary_path: \"/s\", kernel_builtin_disable: [\"true\"]",
            "kernel_builtin_disable: [\"true\"]",
        ] {
            let error = expanded(keys).unwrap_err().to_string();
            assert!(
                error.contains("`kernel_builtin_disable` turns off"),
                "{error}"
            );
        }
        let both = "kernel_builtin_enable: [\"a\"], kernel_builtin_disable: [\"b\"]";
        assert!(expanded(both).unwrap().contains("KernelBuiltin"));
    }

    #[test]
    fn a_configuration_of_each_test_has_arguments_and_a_path() {
        let with = |value: &str| expanded(&format!("binary: \"scx_s\", config_file_def = {value}"));
        let text = with("(\"--config {file}\", PATH)").unwrap();
        assert!(
            text.contains("Some ((\"--config {file}\" , PATH))"),
            "{text}"
        );
        for wrong in ["\"--config {file}\"", "(\"a\", \"b\", \"c\")", "(1, \"b\")"] {
            let error = with(wrong).unwrap_err().to_string();
            assert!(error.contains("with {file} for the path"), "{error}");
        }
    }

    #[test]
    fn every_check_is_a_key_and_a_setter() {
        for check in check_names() {
            let value = ["1", "true"]
                .into_iter()
                .find_map(|value| expanded(&format!("binary: \"scx_s\", {check}: {value}")).ok());
            let text = value.unwrap_or_default();
            assert!(text.contains(&format!(". {check} (")), "{check}: {text}");
        }
    }
}
