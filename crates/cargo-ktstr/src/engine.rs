//! `--engine` and `--time`: the names of the one list of each.

use clap::builder::{PossibleValuesParser, TypedValueParser};
pub(crate) use ktstr::host::plan::config::{EngineChoice, TimeChoice};

/// Reads an engine's name.
pub(crate) fn parser() -> impl TypedValueParser<Value = EngineChoice> {
    PossibleValuesParser::new(EngineChoice::ALL.map(EngineChoice::as_str))
        .try_map(|name| name.parse::<EngineChoice>())
}

/// Reads a clock's name.
pub(crate) fn time_parser() -> impl TypedValueParser<Value = TimeChoice> {
    PossibleValuesParser::new(TimeChoice::ALL.map(TimeChoice::as_str)).try_map(|name| {
        name.parse::<TimeChoice>()
            .map_err(|()| format!("unknown clock '{name}'"))
    })
}
