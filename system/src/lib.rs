//! What touches the operating system and knows nothing of dataspaces.
