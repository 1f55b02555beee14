"""What `feast apply` reads: the contract's entities, sources and views, over the tables of the environment's build."""

from mlops_course.features import of_environment

globals().update({f"part_{number}": part for number, part in enumerate(of_environment())})  # Feast looks at a module's names
