//! `declare_scheduler!`

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Error, Ident, Result, Token, Visibility, braced};

use crate::args::{Args, Kind, unknown};
use crate::test::{CHECKS, setters, shape};

/// Keys beside the checks of SPEC 7, which are the defaults of all its tests.
pub(crate) const KEYS: &[&str] = &[
    "name",
    "binary",
    "path",
    "enable",
    "disable",
    "sched_args",
    "kargs",
    "kernels",
    "sysctls",
    "topology",
    "cgroup_parent",
    "config",
    "env",
    "stats_socket",
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
        let args = body.parse()?;
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
    let known: Vec<&str> = KEYS
        .iter()
        .copied()
        .chain(CHECKS.iter().map(|(name, _)| *name))
        .collect();
    for arg in &args.0 {
        if !known.iter().any(|name| arg.key == name) {
            return Err(unknown("key", &arg.key, &known));
        }
    }
    let Some(name) = args.get("name") else {
        return Err(Error::new(ident.span(), "a scheduler needs a `name`"));
    };
    let name = Kind::Text.tokens(name)?;
    let spec = spec(&ident, &args)?;
    let asserts = setters(&args, CHECKS)?;
    let mut fields = TokenStream::new();
    for key in ["sched_args", "kargs", "kernels"] {
        if let Some(arg) = args.get(key) {
            let (field, value) = (&arg.key, Kind::Texts.tokens(arg)?);
            fields.extend(quote!(#field: #value,));
        }
    }
    for key in ["cgroup_parent", "config", "stats_socket"] {
        if let Some(arg) = args.get(key) {
            let (field, value) = (&arg.key, Kind::Text.tokens(arg)?);
            fields.extend(quote!(#field: ::core::option::Option::Some(#value),));
        }
    }
    for key in ["sysctls", "env"] {
        if let Some(arg) = args.get(key) {
            let (field, value) = (&arg.key, Kind::Path.tokens(arg)?);
            fields.extend(quote!(#field: &#value,));
        }
    }
    if let Some(arg) = args.get("topology") {
        let value = shape(arg.value.as_ref(), arg.key.span())?;
        fields.extend(quote!(topology: ::core::option::Option::Some(#value),));
    }
    let registration = format_ident!("__KTSTR_SCHEDULER_{ident}");
    let doc = if attributes.is_empty() {
        quote!(#[doc = "A scheduler declared for tests."])
    } else {
        quote!()
    };
    Ok(quote! {
        #doc
        #(#attributes)*
        #visibility const #ident: ::ktstr::Scheduler = ::ktstr::Scheduler {
            name: #name,
            place: ::core::concat!(::core::file!(), ":", ::core::line!()),
            manifest_dir: ::core::env!("CARGO_MANIFEST_DIR"),
            spec: #spec,
            assert: ::ktstr::Assert::NONE #asserts,
            #fields
            ..::ktstr::Scheduler::DEFAULT
        };

        #[::ktstr::__private::linkme::distributed_slice(::ktstr::KTSTR_SCHEDULERS)]
        #[linkme(crate = ::ktstr::__private::linkme)]
        static #registration: &'static ::ktstr::Scheduler = &#ident;
    })
}

/// Exactly one of: a name to build or find, a path, or a pair of shell commands.
fn spec(ident: &Ident, args: &Args) -> Result<TokenStream> {
    let given: Vec<&str> = ["binary", "path", "enable"]
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
        [only] if *only == "enable" => {
            let (enable, disable) = (texts("enable")?, texts("disable")?);
            Ok(quote!(::ktstr::SchedulerSpec::KernelBuiltin { enable: #enable, disable: #disable }))
        }
        [_only_path] => {
            let path = text("path")?;
            Ok(quote!(::ktstr::SchedulerSpec::Path(#path)))
        }
        [] => Err(Error::new(
            ident.span(),
            "a scheduler needs one of `binary` (a name to build or find), `path`, or `enable` (guest shell commands)",
        )),
        [_, second, ..] => Err(Error::new(
            args.span(second),
            "only one of `binary`, `path` and `enable` can say where a scheduler comes from",
        )),
    }
}
