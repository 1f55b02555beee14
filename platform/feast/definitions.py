"""What `feast apply` reads: the contract's entity, source and view, over the tables of the environment's build."""

from mlops_course.features import of_environment

entity, source, view = of_environment()
