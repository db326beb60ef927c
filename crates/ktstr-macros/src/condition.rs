//! `#[ktstr_condition]`

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Error, Item, Result};

const WANTED: &str = "a condition is `fn name(kernel: &Kernel) -> bool`";

pub(crate) fn expand(attribute: &TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !attribute.is_empty() {
        return Err(Error::new_spanned(
            attribute,
            format!("#[ktstr_condition] takes no arguments; {WANTED}"),
        ));
    }
    let Item::Fn(function) = syn::parse2(item)? else {
        return Err(Error::new(
            Span::call_site(),
            format!("#[ktstr_condition] goes on a function; {WANTED}"),
        ));
    };
    let signature = &function.sig;
    if !signature.generics.params.is_empty() || signature.asyncness.is_some() {
        return Err(Error::new_spanned(signature, WANTED));
    }
    let name = &signature.ident;
    let text = name.to_string();
    Ok(quote! {
        #function

        const _: () = {
            #[::ktstr::__private::linkme::distributed_slice(::ktstr::KTSTR_CONDITIONS)]
            #[linkme(crate = ::ktstr::__private::linkme)]
            static REGISTERED: ::ktstr::__private::CustomCond = ::ktstr::__private::CustomCond {
                name: ::core::concat!(::core::module_path!(), "::", #text),
                holds: #name,
            };
        };
    })
}
