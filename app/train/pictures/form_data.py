"""The pictures' part of the form: reading the data section from its fields, and putting changes into them."""

from collections.abc import Mapping
from typing import Any

from ....core.config import OPTIONS, DataConfig, RunConfig, config_from_flat, with_changes
from ....core.config.options import ConfigError
from ...parts.forms import Form, from_component, to_component
from ...parts.panel import FormPage

_DATA = [name for name, option in OPTIONS.items() if option.section == "data"]


class DataFields:
    """Handlers give `given`: every input component of the page -> what it holds."""

    def __init__(self, form: Form) -> None:
        self.form = form

    def read(self, given: Mapping[Any, Any]) -> DataConfig:
        """The data section that the form holds, with the defaults where a field is wrong: pictures are shown all the same."""
        values = {}
        for name in _DATA:
            try:
                values[name] = from_component(OPTIONS[name], given[self.form.components[name]])
            except ConfigError:
                continue  # the mark at the field says what is wrong with it
        for kept in (values, {name: values[name] for name in values if OPTIONS[name].type == "str"}):
            try:
                return config_from_flat(kept).data
            except ConfigError:
                continue  # single values are right and do not go together: the form says so
        return DataConfig(instance_data_dir=values.get("instance_data_dir"))

    def fill(self, page: FormPage, given: Mapping[Any, Any], config: RunConfig, changes: Mapping[str, Any],
             also: tuple[str, ...] = ()) -> tuple[dict[Any, Any], DataConfig]:  # fmt: skip
        """Updates that put `changes` into the form (and the values of `also` from `config`), and the data section that it then holds."""
        try:
            new = with_changes(config, changes)
        except ConfigError as error:  # what is empty now is needed by something else that was chosen: the field says so
            shown = {self.form.components[name]: to_component(OPTIONS[name], value) for name, value in changes.items()}
            shown |= self.form.show(config, also)
            updates = self.form.valued(page.refused({**given, **shown}, error), shown)
            return updates, self.read({**given, **shown})
        return page.filled(given, new, [*also, *changes]), new.data

    def read_updated(self, given: Mapping[Any, Any], updates: Mapping[Any, Any]) -> DataConfig:
        """The data section that the form holds once `updates` have reached it."""
        values = {}
        for each in self.form.components.values():
            new = updates.get(each)
            if not isinstance(new, dict):
                values |= {each: new} if each in updates else {}
            elif "value" in new:
                values[each] = new["value"]
        return self.read({**given, **values})
