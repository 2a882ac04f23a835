//! Development tasks: man pages and completions
