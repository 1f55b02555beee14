"""The course's project, for tests that are about the ride-hailing company."""

from mlops_course.contracts import read_project

RIDES = read_project("projects/ride_hailing.yaml")
CONTRACT = RIDES.contract
