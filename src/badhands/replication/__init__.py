"""The last word: claims frozen on one study, each tested once on another."""
