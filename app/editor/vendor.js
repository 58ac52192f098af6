// What the editor uses of other people's packages; `build.mjs` makes vendor/parts.js of it.
export { createElement, memo, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
export { createRoot } from "react-dom/client";
export { default as htm } from "htm";
export {
  Background, BaseEdge, Controls, Handle, MiniMap, NodeResizeControl, Panel, Position, ReactFlow, ReactFlowProvider,
  applyNodeChanges, getBezierPath, useReactFlow, useUpdateNodeInternals,
} from "@xyflow/react";
export { Graph, layout } from "@dagrejs/dagre";
