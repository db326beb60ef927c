//! `key = value` lists, and complaints that show what would be right.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, ExprLit, Ident, Lit, Result, Token};

/// `key = value`, `key: value`, or a bare `flag`.
pub(crate) struct Arg {
    pub(crate) key: Ident,
    pub(crate) value: Option<Expr>,
}

impl Parse for Arg {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let key = input.parse()?;
        let value = if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            Some(ungrouped(input.parse()?))
        } else if input.peek(Token![:]) {
            input.parse::<Token![:]>()?;
            Some(ungrouped(input.parse()?))
        } else {
            None
        };
        Ok(Self { key, value })
    }
}

/// A list of arguments, each key once.
pub(crate) struct Args(pub(crate) Vec<Arg>);

impl Parse for Args {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let args = Punctuated::<Arg, Token![,]>::parse_terminated(input)?;
        Self::once_each(args.into_iter().collect())
    }
}

impl Args {
    /// A list whose commas may be left out.
    pub(crate) fn with_or_without_commas(input: ParseStream<'_>) -> Result<Self> {
        let mut args = Vec::new();
        while !input.is_empty() {
            args.push(input.parse()?);
            input.parse::<Option<Token![,]>>()?;
        }
        Self::once_each(args)
    }

    fn once_each(args: Vec<Arg>) -> Result<Self> {
        for (index, arg) in args.iter().enumerate() {
            if args
                .iter()
                .take(index)
                .any(|earlier| earlier.key == arg.key)
            {
                return Err(Error::new(
                    arg.key.span(),
                    format!("`{}` is given twice", arg.key),
                ));
            }
        }
        Ok(Self(args))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arg> {
        self.0.iter().find(|arg| arg.key == key)
    }

    pub(crate) fn span(&self, key: &str) -> Span {
        self.get(key)
            .map_or_else(Span::call_site, |arg| arg.key.span())
    }

    /// The flag is given, and not as `false`.
    pub(crate) fn is_on(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|arg| !matches!(&arg.value, Some(value) if bool_of(value) == Some(false)))
    }
}

/// What kind of value a key takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Flag,
    Int,
    Float,
    Text,
    Texts,
    /// A list of constants in brackets, or an expression of that type.
    Values,
    /// The name of a constant, or a list of constants in brackets: references to them.
    Refs,
    /// Any expression; the compiler checks its type.
    Path,
    /// The name of a constant.
    Constant,
    /// The name of a constant of type `Payload`.
    Payload,
}

impl Kind {
    fn wanted(self) -> &'static str {
        match self {
            Self::Flag => "a flag: write it alone, or `= true` or `= false`",
            Self::Int => "a whole number",
            Self::Float => "a number",
            Self::Text => "a text in quotes",
            Self::Texts => "a list of texts in brackets, such as [\"a\", \"b\"]",
            Self::Values => "a list of constants in brackets, such as [A, B]",
            Self::Refs => {
                "the name of a constant, or a list of constants in brackets, such as [A, B]"
            }
            Self::Path => "a name or an expression",
            Self::Constant => "the name of a constant that `declare_scheduler!` made",
            Self::Payload => "the name of a constant of type `Payload`",
        }
    }

    /// The value's tokens, or a complaint at the value.
    pub(crate) fn tokens(self, arg: &Arg) -> Result<TokenStream> {
        let wrong = |span| Error::new(span, format!("`{}` takes {}", arg.key, self.wanted()));
        let Some(value) = &arg.value else {
            return if self == Self::Flag {
                Ok(quote!(true))
            } else {
                Err(wrong(arg.key.span()))
            };
        };
        let span = syn::spanned::Spanned::span(value);
        let fits = match (self, value) {
            (Self::Flag, value) => bool_of(value).is_some(),
            (
                Self::Int,
                Expr::Lit(ExprLit {
                    lit: Lit::Int(_), ..
                }),
            ) => true,
            (
                Self::Float,
                Expr::Lit(ExprLit {
                    lit: Lit::Int(int), ..
                }),
            ) => {
                let float: f64 = int.base10_parse()?;
                return Ok(quote!(#float));
            }
            (
                Self::Float,
                Expr::Lit(ExprLit {
                    lit: Lit::Float(_), ..
                }),
            ) => true,
            (Self::Text, value) => text_of(value).is_some() || matches!(value, Expr::Path(_)),
            (Self::Texts, Expr::Array(array)) => {
                for element in &array.elems {
                    if text_of(element).is_none() && !matches!(element, Expr::Path(_)) {
                        return Err(wrong(syn::spanned::Spanned::span(element)));
                    }
                }
                return Ok(quote!(&#array));
            }
            (Self::Values, Expr::Array(array)) => return Ok(quote!(&#array)),
            (Self::Refs, Expr::Path(path)) => return Ok(quote!(&[&#path])),
            (Self::Refs, Expr::Array(array)) => {
                let is_tuple = |element: &Expr| matches!(element, Expr::Tuple(_));
                if let Some(tuple) = array.elems.iter().find(|element| is_tuple(element)) {
                    return Err(wrong(syn::spanned::Spanned::span(tuple)));
                }
                let elements = array.elems.iter();
                return Ok(quote!(&[#(&#elements),*]));
            }
            // Names of constants serve wherever a literal does.
            (
                Self::Int | Self::Float | Self::Texts | Self::Constant | Self::Payload,
                Expr::Path(_),
            )
            | (Self::Path | Self::Values, _) => true,
            _ => false,
        };
        if fits {
            Ok(quote!(#value))
        } else {
            Err(wrong(span))
        }
    }
}

fn bool_of(value: &Expr) -> Option<bool> {
    match value {
        Expr::Lit(ExprLit {
            lit: Lit::Bool(value),
            ..
        }) => Some(value.value),
        _ => None,
    }
}

/// A value that an outer macro fills in (`$shape:literal`) comes in groups without delimiters.
fn ungrouped(mut value: Expr) -> Expr {
    while let Expr::Group(group) = value {
        value = *group.expr;
    }
    value
}

pub(crate) fn text_of(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(ExprLit {
            lit: Lit::Str(value),
            ..
        }) => Some(value.value()),
        _ => None,
    }
}

pub(crate) fn int_of(value: &Expr) -> Option<u64> {
    match value {
        Expr::Lit(ExprLit {
            lit: Lit::Int(value),
            ..
        }) => value.base10_parse().ok(),
        _ => None,
    }
}

/// "unknown" with the nearest known name, or all of them.
pub(crate) fn unknown(what: &str, key: &Ident, known: &[&str]) -> Error {
    let name = key.to_string();
    let nearest = known
        .iter()
        .map(|candidate| (strsim::levenshtein(&name, candidate), candidate))
        .min();
    let hint = match nearest {
        Some((near, candidate)) if near <= 3 => format!("did you mean `{candidate}`?"),
        _ => format!("known are: {}", known.join(", ")),
    };
    Error::new(key.span(), format!("unknown {what} `{name}`; {hint}"))
}

/// `1n2l4c2t` as four numbers.
pub(crate) fn parse_shape(text: &str) -> Option<[u32; 4]> {
    let mut rest = text;
    let mut numbers = [0; 4];
    for (unit, number) in ['n', 'l', 'c', 't'].into_iter().zip(&mut numbers) {
        let (digits, tail) = rest.split_once(unit)?;
        *number = digits.parse().ok()?;
        rest = tail;
    }
    rest.is_empty().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        assert_eq!(strsim::levenshtein("duration", "duration_s"), 2);
        assert_eq!(strsim::levenshtein("", "abc"), 3);
        let key: Ident = syn::parse_quote!(not_stuk);
        assert!(
            unknown("attribute", &key, &["isolation", "not_stuck"])
                .to_string()
                .contains("did you mean `not_stuck`")
        );
        let far: Ident = syn::parse_quote!(zzzzzzzz);
        assert!(
            unknown("attribute", &far, &["a", "b"])
                .to_string()
                .contains("known are: a, b")
        );
    }

    #[test]
    fn shapes() {
        assert_eq!(parse_shape("1n2l4c2t"), Some([1, 2, 4, 2]));
        assert_eq!(parse_shape("2l4c"), None);
    }

    #[test]
    fn commas_may_be_left_out_where_that_is_said() {
        use syn::parse::Parser as _;
        let keys = |text: &str| {
            let args = Args::with_or_without_commas.parse_str(text)?;
            let keys = args.0.iter().map(|arg| arg.key.to_string());
            syn::Result::Ok(keys.collect::<Vec<_>>())
        };
        let all = ["name", "sched_args", "topology", "not_stuck", "binary"];
        let without =
            "name = \"x\" sched_args = [\"--a\"] topology = (1, 2, 4, 2) not_stuck binary = \"b\"";
        assert_eq!(keys(without).unwrap(), all);
        let with = "name = \"x\", sched_args = [\"--a\"], topology = (1, 2, 4, 2), not_stuck, binary = \"b\",";
        assert_eq!(keys(with).unwrap(), all);
        assert_eq!(
            keys("a = 1 a = 2").unwrap_err().to_string(),
            "`a` is given twice"
        );
        assert!(keys("a = 1,, b = 2").is_err());
        assert!(syn::parse_str::<Args>("a = 1 b = 2").is_err());
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let error = syn::parse_str::<Args>("a = 1, b, a = 2").err().unwrap();
        assert_eq!(error.to_string(), "`a` is given twice");
    }
}
