//! Changes of mind, figures that cannot be, ids that belong to others, and results of which some are missing for a while.
