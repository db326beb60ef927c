//! `--engine`: the names of the one list of engines.

use clap::builder::{PossibleValuesParser, TypedValueParser};
pub(crate) use ktstr::host::plan::config::EngineChoice;

/// Reads an engine's name.
pub(crate) fn parser() -> impl TypedValueParser<Value = EngineChoice> {
    PossibleValuesParser::new(EngineChoice::ALL.map(EngineChoice::as_str))
        .try_map(|name| name.parse::<EngineChoice>())
}
