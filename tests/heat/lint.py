"""What can be found in templates without a stack: YAML, types, properties and attributes of the engine's own schemas.

Every function yields findings as text; nothing found means that the file is good.
"""

import os

import yaml

from heat.engine import properties, resources, support, template as templates
from heat.common import exception

SUPPORTED = support.SUPPORTED
# What belongs to these is for the template's author to read.
DESCRIBED = ('parameters', 'outputs')


class Strict(yaml.SafeLoader):
    """YAML without keys that are there twice and without numbers that were meant as text."""


def _mapping(loader, node, deep=False):
    seen = set()
    for key, _value in node.value:
        name = loader.construct_object(key, deep=True)
        if not isinstance(name, (str, int)):
            raise yaml.constructor.ConstructorError(None, None, f'key {name!r} is no text', key.start_mark)
        if name in seen:
            raise yaml.constructor.ConstructorError(None, None, f'key {name!r} is there twice', key.start_mark)
        seen.add(name)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


def _float(_loader, node):
    raise yaml.constructor.ConstructorError(None, None, f'{node.value!r} is a fraction; quote it', node.start_mark)


def _date(_loader, node):
    return node.value


Strict.add_constructor('tag:yaml.org,2002:map', _mapping)
Strict.add_constructor('tag:yaml.org,2002:float', _float)
Strict.add_constructor('tag:yaml.org,2002:timestamp', _date)


def load(path, findings):
    """The document, or None with a finding."""
    with open(path, encoding='utf-8') as file:
        try:
            return yaml.load(file, Strict)  # noqa: S506 - Strict is a SafeLoader
        except yaml.YAMLError as error:
            findings.append(f'{os.path.basename(path)}: {" ".join(str(error).split())}')
            return None


def newest_version():
    """The newest template version that is a date."""
    names = (name.split('.') for name in templates._get_template_extension_manager().names())
    return max(version for kind, version in names if kind == 'heat_template_version' and version[0].isdigit())


def template(path, findings):
    """Findings of one template."""
    name = os.path.basename(path)
    document = load(path, findings)
    if document is None:
        return

    def find(text):
        findings.append(f'{name}: {text}')

    if document.get('heat_template_version') != newest_version():
        find(f'heat_template_version is {document.get("heat_template_version")}, not {newest_version()}')
    if not document.get('description'):
        find('no description')
    for parameter, schema in document.get('parameters', {}).items():
        if not _mentions(document, 'get_param', parameter):
            find(f'parameter {parameter} is not used')
        if 'default' not in schema and 'description' not in schema:
            find(f'parameter {parameter} has neither a default nor a description')
        # Secrets go into files of mode 0600 and nowhere else; boot_data looks at what the servers got.
        if bool(schema.get('hidden')) != parameter.startswith('secret_'):
            find(f'parameter {parameter} is hidden and not called secret_…, or the other way round')
    grouped = [p for group in document.get('parameter_groups', []) for p in group['parameters']]
    if grouped and sorted(grouped) != sorted(document['parameters']):
        find(f'parameter_groups and parameters differ: {sorted(set(grouped) ^ set(document["parameters"]))}')
    for output, what in document.get('outputs', {}).items():
        if not what.get('description'):
            find(f'output {output} has no description')
    for resource, definition in document.get('resources', {}).items():
        _resource(f'resource {resource}', definition, find, os.path.dirname(path))
    _attributes(document, document.get('resources', {}), find, os.path.dirname(path))


def _mentions(document, function, argument):
    if isinstance(document, dict):
        given = document.get(function)
        if given == argument or (isinstance(given, list) and given and given[0] == argument):
            return True
        return any(_mentions(value, function, argument) for value in document.values())
    if isinstance(document, list):
        return any(_mentions(value, function, argument) for value in document)
    return False


def _class_of(kind, find, where):
    try:
        return resources.global_env().get_class(kind)
    except exception.EntityNotFound:
        find(f'{where}: type {kind} is unknown to Heat')
        return None


def _resource(where, definition, find, directory):
    kind = definition['type']
    given = definition.get('properties', {})
    if kind.endswith('.yaml'):
        if not os.path.exists(os.path.join(directory, kind)):
            find(f'{where}: {kind} is not here')
        return
    found = _class_of(kind, find, where)
    if found is None:
        return
    if found.support_status.status != SUPPORTED:
        find(f'{where}: type {kind} is {found.support_status.status}: {found.support_status.message}')
    _properties(f'{where} ({kind})', given, properties.schemata(found.properties_schema), find)
    if 'resource_def' in given:
        _resource(f'{where}.resource_def', given['resource_def'], find, directory)


def _properties(where, given, schemata, find):
    for name, value in given.items():
        schema = schemata.get(name)
        if schema is None:
            find(f'{where}: there is no property {name}')
            continue
        status = schema.support_status
        if status.status != SUPPORTED:
            find(f'{where}: property {name} is {status.status} since {status.version}: {status.message}')
        if schema.schema and isinstance(value, dict) and schema.type == properties.Schema.MAP and set(value) <= set(schema.schema):
            _properties(f'{where}.{name}', value, schema.schema, find)
        if schema.schema and isinstance(value, list) and schema.type == properties.Schema.LIST:
            for item in value:
                inner = schema.schema.get('*') if isinstance(schema.schema, dict) else schema.schema['*']
                if inner is not None and inner.schema and isinstance(item, dict) and set(item) <= set(inner.schema):
                    _properties(f'{where}.{name}', item, inner.schema, find)


def _attributes(node, defined, find, directory):
    if isinstance(node, list):
        for item in node:
            _attributes(item, defined, find, directory)
    if not isinstance(node, dict):
        return
    path = node.get('get_attr')
    if isinstance(path, list) and path and path[0] in defined:
        kind = defined[path[0]]['type']
        if not kind.endswith('.yaml') and isinstance(path[1], str):
            found = _class_of(kind, find, f'get_attr {path}')
            schema = found.attributes_schema.get(path[1]) if found else None
            if schema is not None and schema.support_status.status != SUPPORTED:
                find(f'get_attr {path}: {schema.support_status.status}: {schema.support_status.message}')
    for value in node.values():
        _attributes(value, defined, find, directory)


def environment(path, template_path, findings, complete):
    """Findings of an environment file; `complete` when it is to name every parameter, at its default if it has one."""
    document = load(path, findings)
    schemas = load(template_path, findings)
    if document is None or schemas is None:
        return
    given, known = document.get('parameters', {}), schemas['parameters']
    name = os.path.basename(path)
    for parameter in given:
        if parameter not in known:
            findings.append(f'{name}: {os.path.basename(template_path)} has no parameter {parameter}')
    if not complete:
        return
    for parameter, schema in known.items():
        if parameter not in given:
            findings.append(f'{name}: parameter {parameter} is missing')
        elif 'default' in schema and _plain(schema, schema['default']) != _plain(schema, given[parameter]):
            findings.append(f'{name}: {parameter} is {given[parameter]!r}, but the default is {schema["default"]!r}')


def _plain(schema, value):
    if schema['type'] == 'comma_delimited_list' and isinstance(value, str):
        return [item for item in value.split(',') if item]
    return value
