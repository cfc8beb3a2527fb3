"""The models that can be trained, one file each."""

from stages.training.students.base import Base, Student, read_base
from stages.training.students.build import build

__all__ = ["Base", "Student", "build", "read_base"]
