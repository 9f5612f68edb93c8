//! Publishing to workers by pointer swap, with quiescent-state reclamation.
