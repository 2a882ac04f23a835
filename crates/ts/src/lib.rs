//! Serialize runs of a command, coalesce requests, never lose one
