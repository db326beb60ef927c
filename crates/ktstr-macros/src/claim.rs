//! `#[derive(Claim)]`

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Error, Fields, Result};

pub(crate) fn expand(input: TokenStream) -> Result<TokenStream> {
    let input: DeriveInput = syn::parse2(input)?;
    let Data::Struct(data) = &input.data else {
        return Err(Error::new(
            input.ident.span(),
            "Claim can be derived for structs with named fields",
        ));
    };
    let Fields::Named(fields) = &data.fields else {
        return Err(Error::new(
            input.ident.span(),
            "Claim can be derived for structs with named fields",
        ));
    };
    let methods = fields.named.iter().filter_map(|field| {
        let name = field.ident.as_ref()?;
        let (method, kind, visibility) = (format_ident!("claim_{name}"), &field.ty, &field.vis);
        let label = format!("{}.{name}", input.ident);
        let doc = format!("A claim about `{name}`.");
        Some(quote! {
            #[doc = #doc]
            #visibility fn #method<'v>(&self, verdict: &'v mut ::ktstr::Verdict) -> ::ktstr::Claimed<'v, #kind> {
                verdict.claim(#label, self.#name.clone())
            }
        })
    });
    let (ident, (generics, types, bounds)) = (&input.ident, input.generics.split_for_impl());
    Ok(quote! {
        impl #generics #ident #types #bounds {
            #(#methods)*
        }
    })
}
