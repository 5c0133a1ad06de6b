//! Records of other writers: a datum of the writer's schema becomes a datum of the topic's own.
//!
//! Producers that register a schema of their own (fewer fields, another order, `int` for `long`, no
//! null) are the normal case with a schema registry. Avro's resolution rules are applied once, when
//! the schema is learnt, and give a plan; a record then costs one pass over its bytes. The generic
//! way (a tree of values, resolved, and a conversion from it) costs several microseconds a record,
//! and follows recursive schemas as deep as a record asks: recursive schemas are refused here.

mod kind;

use apache_avro::Schema;
use apache_avro::schema::{Name, RecordSchema, ResolvedSchema};

use super::binary::{Reader, put_bytes, put_double, put_float, put_long, put_unsigned};
use super::decode::RECORD_BYTES_MAX;
use super::error::DecodeError;
use kind::{Kind, kind, put_default};

/// Nesting of a schema; the contract's own have at most six levels.
const DEPTH_MAX: usize = 32;
/// Steps of one plan: a schema can name a type many times, which a plan writes out each time.
const STEPS_MAX: usize = 4_096;

/// How a datum of a writer's schema is rewritten in the topic's schema.
#[derive(Debug)]
pub(super) struct Plan {
    root: Step,
}

#[derive(Debug)]
enum Step {
    /// Neither reads nor writes.
    Null,
    /// The same bytes in both schemas.
    Boolean,
    Long,
    Float,
    Double,
    /// A string or bytes, which are encoded alike.
    Bytes,
    Fixed(usize),
    LongToFloat,
    LongToDouble,
    FloatToDouble,
    /// The reader's symbol for each of the writer's; `None`: the reader has none.
    Enum(Vec<Option<usize>>),
    Array(Box<Step>),
    Map(Box<Step>),
    /// A step for each of the writer's branches; `Err`: the reader has no place for it.
    Union(Vec<Result<Step, String>>),
    /// The reader has a union where the writer has none, or after the writer's branch is read.
    Branch(usize, Box<Step>),
    Record(Box<RecordStep>),
}

#[derive(Debug)]
struct RecordStep {
    /// The writer's fields in order; the number is the reader's field, `None`: it has none.
    fields: Vec<(Option<usize>, Step)>,
    /// The reader's fields: where each comes from.
    sources: Vec<Source>,
    /// The writer has its fields in the reader's order, so that they are written as they come.
    ordered: bool,
}

#[derive(Debug)]
enum Source {
    Writer,
    Default(Vec<u8>),
}

impl Plan {
    /// # Errors
    /// What in the writer's schema does not fit the reader's, with the path to it.
    pub(super) fn new(writer: &Schema, reader: &Schema) -> Result<Self, String> {
        let names = |schema| ResolvedSchema::new(schema).map_err(|error| error.to_string());
        let (writer_names, reader_names) = (names(writer)?, names(reader)?);
        let mut compiler = Compiler {
            writer: &writer_names,
            reader: &reader_names,
            open: Vec::new(),
            depth: 0,
            steps: 0,
        };
        Ok(Plan { root: compiler.step(writer, reader)? })
    }

    /// The datum in the reader's schema.
    pub(super) fn resolve(&self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut reader = Reader::new(body);
        let mut out = Vec::with_capacity(body.len() + 64);
        self.root.run(&mut reader, &mut out)?;
        reader.finish()?;
        Ok(out)
    }
}

struct Compiler<'s> {
    writer: &'s ResolvedSchema<'s>,
    reader: &'s ResolvedSchema<'s>,
    /// The writer's records that are being compiled, outermost first.
    open: Vec<&'s Name>,
    depth: usize,
    steps: usize,
}

impl<'s> Compiler<'s> {
    /// Counts a step and goes down one level.
    fn enter<T>(
        &mut self,
        compile: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        self.steps += 1;
        if self.depth >= DEPTH_MAX {
            return Err(format!("nested deeper than {DEPTH_MAX} levels"));
        }
        if self.steps > STEPS_MAX {
            return Err(format!("more than {STEPS_MAX} types, written out"));
        }
        self.depth += 1;
        let result = compile(self);
        self.depth -= 1;
        result
    }

    /// Goes into one of the writer's records.
    fn open<T>(
        &mut self,
        record: &'s RecordSchema,
        compile: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        if self.open.contains(&&record.name) {
            return Err(format!("`{}` contains itself", record.name));
        }
        self.open.push(&record.name);
        let result = compile(self);
        self.open.pop();
        result
    }

    fn step(&mut self, writer: &'s Schema, reader: &'s Schema) -> Result<Step, String> {
        self.enter(|compiler| compiler.step_inside(writer, reader))
    }

    fn step_inside(&mut self, writer: &'s Schema, reader: &'s Schema) -> Result<Step, String> {
        let (from, to) = (kind(writer, self.writer)?, kind(reader, self.reader)?);
        Ok(match (from, to) {
            (Kind::Union(branches), _) => {
                let steps: Vec<_> =
                    branches.iter().map(|branch| self.step(branch, reader)).collect();
                match steps.iter().find_map(|step| step.as_ref().err()) {
                    Some(problem) if steps.iter().all(Result::is_err) => {
                        return Err(problem.clone());
                    }
                    Some(_) | None => Step::Union(steps),
                }
            }
            (_, Kind::Union(branches)) => return self.branch(writer, branches),
            (Kind::Null, Kind::Null) => Step::Null,
            (Kind::Boolean, Kind::Boolean) => Step::Boolean,
            (Kind::Int | Kind::Long, Kind::Int | Kind::Long) => Step::Long,
            (Kind::Int | Kind::Long, Kind::Float) => Step::LongToFloat,
            (Kind::Int | Kind::Long, Kind::Double) => Step::LongToDouble,
            (Kind::Float, Kind::Float) => Step::Float,
            (Kind::Float, Kind::Double) => Step::FloatToDouble,
            (Kind::Double, Kind::Double) => Step::Double,
            (Kind::Bytes | Kind::String, Kind::Bytes | Kind::String) => Step::Bytes,
            (Kind::Enum(from), Kind::Enum(to)) => {
                let position = |symbol: &String| to.symbols.iter().position(|own| own == symbol);
                let otherwise = to.default.as_ref().and_then(position);
                Step::Enum(from.symbols.iter().map(|name| position(name).or(otherwise)).collect())
            }
            (Kind::Array(from), Kind::Array(to)) => {
                self.check_items(from)?;
                Step::Array(Box::new(self.step(from, to)?))
            }
            // Each entry has a key, which takes a byte or more.
            (Kind::Map(from), Kind::Map(to)) => Step::Map(Box::new(self.step(from, to)?)),
            (Kind::Record(from), Kind::Record(to)) => {
                self.open(from, |compiler| compiler.record(from, to))?
            }
            (from, to) => return Err(format!("{} where {} is read", from.name(), to.name())),
        })
    }

    /// The reader's first branch of the same type, or else the first that the writer's type becomes.
    fn branch(&mut self, writer: &'s Schema, branches: &'s [Schema]) -> Result<Step, String> {
        let mut problem = "no branch for it".to_owned();
        let mut found = None;
        for (index, branch) in branches.iter().enumerate() {
            let same = kind(writer, self.writer)?.name() == kind(branch, self.reader)?.name();
            match self.step(writer, branch) {
                Ok(step) if same => return Ok(Step::Branch(index, Box::new(step))),
                Ok(step) => found = found.or(Some(Step::Branch(index, Box::new(step)))),
                Err(error) if same || !matches!(branch, Schema::Null) => problem = error,
                Err(_) => {}
            }
        }
        found.ok_or(problem)
    }

    fn record(&mut self, from: &'s RecordSchema, to: &'s RecordSchema) -> Result<Step, String> {
        // The specification asks for equal names. Only the outermost name says anything here: the
        // same fields may well mean something else in a record of another kind.
        if self.depth == 1 && from.name.name() != to.name.name() {
            return Err(format!("record `{}` where `{}` is read", from.name, to.name));
        }
        let mut sources: Vec<Option<Source>> = to.fields.iter().map(|_| None).collect();
        let mut fields = Vec::with_capacity(from.fields.len());
        for field in &from.fields {
            let place = to
                .fields
                .iter()
                .position(|own| own.name == field.name || own.aliases.contains(&field.name));
            let step = match place {
                Some(place) => {
                    sources[place] = Some(Source::Writer);
                    self.step(&field.schema, &to.fields[place].schema)
                }
                None => self.skip(&field.schema),
            };
            fields.push((place, step.map_err(|problem| format!("{}: {problem}", field.name))?));
        }
        let mut filled = Vec::with_capacity(sources.len());
        for (source, field) in sources.into_iter().zip(&to.fields) {
            filled.push(match (source, &field.default) {
                (Some(source), _) => source,
                (None, Some(default)) => {
                    let mut bytes = Vec::new();
                    put_default(&mut bytes, default, &field.schema, self.reader)
                        .map_err(|problem| format!("{}: {problem}", field.name))?;
                    Source::Default(bytes)
                }
                (None, None) => return Err(format!("{}: missing, and has no default", field.name)),
            });
        }
        let places: Vec<usize> = fields.iter().filter_map(|(place, _)| *place).collect();
        let ordered = places.is_sorted();
        Ok(Step::Record(Box::new(RecordStep { fields, sources: filled, ordered })))
    }

    /// A step that reads what the reader has no place for. What it writes is thrown away.
    fn skip(&mut self, writer: &'s Schema) -> Result<Step, String> {
        self.enter(|compiler| {
            Ok(match kind(writer, compiler.writer)? {
                Kind::Null => Step::Null,
                Kind::Boolean => Step::Boolean,
                Kind::Int | Kind::Long | Kind::FinerTime => Step::Long,
                Kind::Float => Step::Float,
                Kind::Double => Step::Double,
                Kind::Bytes | Kind::String => Step::Bytes,
                Kind::Fixed(size) => Step::Fixed(size),
                Kind::Enum(_) => Step::Long,
                Kind::Array(items) => {
                    compiler.check_items(items)?;
                    Step::Array(Box::new(compiler.skip(items)?))
                }
                Kind::Map(values) => Step::Map(Box::new(compiler.skip(values)?)),
                Kind::Union(branches) => Step::Union(
                    branches
                        .iter()
                        .map(|branch| compiler.skip(branch).map(Ok))
                        .collect::<Result<_, String>>()?,
                ),
                Kind::Record(record) => {
                    let fields = compiler.open(record, |compiler| {
                        let fields = record.fields.iter();
                        fields
                            .map(|field| compiler.skip(&field.schema).map(|step| (None, step)))
                            .collect::<Result<_, String>>()
                    })?;
                    let step = RecordStep { fields, sources: Vec::new(), ordered: true };
                    Step::Record(Box::new(step))
                }
            })
        })
    }

    fn check_items(&self, items: &Schema) -> Result<(), String> {
        if kind(items, self.writer)?.may_be_empty() {
            return Err("an array whose items may take no bytes".to_owned());
        }
        Ok(())
    }
}

/// Fields of a writer's schema have no names in errors: the plan is compiled without them.
const FOREIGN: &str = "";
/// The count of one, zigzag. Each item becomes a block of its own, which is right whatever follows.
const BLOCK_OF_ONE: u8 = 2;

impl Step {
    fn run(&self, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match self {
            Step::Null => {}
            Step::Boolean => out.extend_from_slice(reader.take(FOREIGN, 1)?),
            Step::Long => put_long(out, reader.long(FOREIGN)?),
            Step::Float => out.extend_from_slice(reader.take(FOREIGN, 4)?),
            Step::Double => out.extend_from_slice(reader.take(FOREIGN, 8)?),
            Step::Bytes => put_bytes(out, reader.bytes(FOREIGN)?),
            Step::Fixed(size) => out.extend_from_slice(reader.take(FOREIGN, *size)?),
            Step::LongToFloat => put_float(out, reader.long(FOREIGN)? as f32),
            Step::LongToDouble => put_double(out, reader.long(FOREIGN)? as f64),
            Step::FloatToDouble => put_double(out, reader.float(FOREIGN)?.into()),
            Step::Enum(symbols) => {
                let symbol = reader.symbol(FOREIGN, symbols)?;
                let symbol = symbol.ok_or_else(|| avro("an enum symbol that is not known here"))?;
                put_unsigned(out, symbol as u64);
            }
            Step::Array(item) => {
                reader.items(FOREIGN, |reader, _| {
                    out.push(BLOCK_OF_ONE);
                    item.run(reader, out)
                })?;
                out.push(0);
            }
            Step::Map(value) => {
                reader.items(FOREIGN, |reader, _| {
                    out.push(BLOCK_OF_ONE);
                    put_bytes(out, reader.bytes(FOREIGN)?);
                    value.run(reader, out)
                })?;
                out.push(0);
            }
            Step::Union(branches) => {
                let index = reader.long(FOREIGN)?;
                match usize::try_from(index).ok().and_then(|index| branches.get(index)) {
                    Some(Ok(step)) => step.run(reader, out)?,
                    Some(Err(problem)) => return Err(avro(problem)),
                    None => return Err(avro(&format!("branch {index} of {}", branches.len()))),
                }
            }
            Step::Branch(index, step) => {
                put_unsigned(out, *index as u64);
                step.run(reader, out)?;
            }
            Step::Record(record) => record.run(reader, out)?,
        }
        // Defaults make a short record longer, each time that it is an item of an array.
        if out.len() > 2 * RECORD_BYTES_MAX {
            return Err(DecodeError::TooLarge { bytes: out.len(), max: 2 * RECORD_BYTES_MAX });
        }
        Ok(())
    }
}

fn avro(problem: &str) -> DecodeError {
    DecodeError::Avro { field: FOREIGN, problem: problem.to_owned() }
}

impl RecordStep {
    fn run(&self, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if self.ordered {
            let mut next = 0;
            for (place, step) in &self.fields {
                match place {
                    Some(place) => {
                        self.put_defaults(next..*place, out);
                        next = place + 1;
                        step.run(reader, out)?;
                    }
                    None => {
                        let start = out.len();
                        step.run(reader, out)?;
                        out.truncate(start);
                    }
                }
            }
            self.put_defaults(next..self.sources.len(), out);
            return Ok(());
        }
        let mut read = Vec::new();
        let mut ranges = vec![0..0; self.sources.len()];
        for (place, step) in &self.fields {
            let start = read.len();
            step.run(reader, &mut read)?;
            match place.and_then(|place| ranges.get_mut(place)) {
                Some(range) => *range = start..read.len(),
                None => read.truncate(start),
            }
        }
        for (source, range) in self.sources.iter().zip(ranges) {
            match source {
                Source::Writer => out.extend_from_slice(&read[range]),
                Source::Default(bytes) => out.extend_from_slice(bytes),
            }
        }
        Ok(())
    }

    fn put_defaults(&self, places: std::ops::Range<usize>, out: &mut Vec<u8>) {
        for source in self.sources.get(places).unwrap_or_default() {
            if let Source::Default(bytes) = source {
                out.extend_from_slice(bytes);
            }
        }
    }
}
