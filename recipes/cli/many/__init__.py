"""Many runs from one recipe: repeats with other seeds or folds, how they compare, and tuning."""
