# What a node is, is data: the list `classes`, collected from all levels.
node default {
  lookup('classes', Array[String], 'unique').include
}
